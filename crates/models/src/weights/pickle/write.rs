//! Writing torch's zip format.

use super::text;
use candle_core::{DType, Tensor};
use std::io::{Seek, Write};

/// Writes tensors as `{"model": {name: tensor}}`, the layout facebookresearch/mae and timm load, in torch's zip format. Every tensor is
/// written as f32, whatever its type, and without a copy of more than one at a time.
///
/// # Errors
/// When the writer fails, or a tensor has more than 2^31 values.
pub fn write<W: Write + Seek>(out: W, tensors: &[(String, Tensor)]) -> Result<(), String> {
    let mut zip = zip::ZipWriter::new(out);
    // torch maps storages into memory, so they lie uncompressed at multiples of 64 bytes.
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .with_alignment(64)
        .large_file(true);
    let mut put = |name: String, data: &[u8]| -> Result<(), String> {
        zip.start_file(name, options).map_err(text)?;
        zip.write_all(data).map_err(text)
    };
    put("archive/data.pkl".into(), &state_pickle(tensors)?)?;
    put("archive/byteorder".into(), b"little")?;
    for (i, (name, t)) in tensors.iter().enumerate() {
        let values = t.to_dtype(DType::F32).and_then(|t| t.flatten_all()).and_then(|t| t.to_vec1::<f32>());
        let values = values.map_err(|e| format!("{name}: {e}"))?;
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        put(format!("archive/data/{i}"), &bytes)?;
    }
    put("archive/version".into(), b"3\n")?;
    zip.finish().map_err(text)?;
    Ok(())
}

/// The pickle, protocol 2.
fn state_pickle(tensors: &[(String, Tensor)]) -> Result<Vec<u8>, String> {
    let mut p = vec![0x80, 2, b'}', b'X'];
    let string = |p: &mut Vec<u8>, s: &str| {
        p.push(b'X');
        p.extend((s.len() as u32).to_le_bytes());
        p.extend(s.as_bytes());
    };
    let int = |p: &mut Vec<u8>, v: usize| {
        let v = i32::try_from(v).map_err(|_| "a tensor of more than 2^31 values")?;
        p.push(b'J');
        p.extend(v.to_le_bytes());
        Ok::<(), String>(())
    };
    let tuple = |p: &mut Vec<u8>, values: &[usize]| {
        p.push(b'(');
        values.iter().try_for_each(|&v| int(p, v))?;
        p.push(b't');
        Ok::<(), String>(())
    };
    p.pop();
    string(&mut p, "model");
    p.push(b'}');
    p.push(b'(');
    for (i, (name, t)) in tensors.iter().enumerate() {
        string(&mut p, name);
        p.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        string(&mut p, "storage");
        p.extend(b"ctorch\nFloatStorage\n");
        string(&mut p, &i.to_string());
        string(&mut p, "cpu");
        int(&mut p, t.elem_count())?;
        p.extend(b"tQ");
        int(&mut p, 0)?;
        tuple(&mut p, t.dims())?;
        let mut stride = vec![1; t.rank()];
        for d in (1..t.rank()).rev() {
            stride[d - 1] = stride[d] * t.dims()[d].max(1);
        }
        tuple(&mut p, &stride)?;
        p.extend([0x89]);
        p.extend(b"ccollections\nOrderedDict\n)RtR");
    }
    p.extend(b"us.");
    Ok(p)
}
