//! PyTorch files: the zip format, the legacy format and whole-module pickles, read without executing anything.
//!
//! candle's unpickler turns the bytes into plain objects; only tensors are taken out of them.

use crate::error::{Error, Result};
use candle_core::pickle::{Object, Stack};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use std::io::{Cursor, Read, Seek, Write};
use std::path::Path;
use std::rc::Rc;

/// Files larger than this are refused (64 GiB): a size no vision model has.
const MAX_BYTES: u64 = 64 << 30;
/// Dictionaries and modules inside one another.
const MAX_DEPTH: usize = 64;
/// Keys under which training programs keep the weights, best first.
const WEIGHT_KEYS: [&str; 6] = ["state_dict", "model", "model_state_dict", "module", "net", "weights"];
/// The first bytes of torch's legacy format: the pickled number 0x1950a86a20f9469cfc6c.
const LEGACY_MAGIC: [u8; 14] = [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Every tensor of a PyTorch file by its state-dict name.
///
/// # Errors
/// When the file is not a PyTorch file, is damaged, or holds no tensor.
pub fn read(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let fail = |message: String| Error::File { path: path.into(), message };
    let size = std::fs::metadata(path).map_err(|e| fail(e.to_string()))?.len();
    if size > MAX_BYTES {
        return Err(fail(format!("{size} bytes are more than the {MAX_BYTES} this reader accepts")));
    }
    // The unpickler indexes into what it reads; a hostile file must not end the program.
    let result = std::panic::catch_unwind(|| read_unguarded(path));
    let tensors = result.unwrap_or_else(|_| Err("a damaged pickle".into())).map_err(fail)?;
    if tensors.is_empty() {
        return Err(fail("no tensor found: expected a state dict, or one under `model` or `state_dict`".into()));
    }
    Ok(tensors)
}

fn read_unguarded(path: &Path) -> Result<Vec<(String, Tensor)>, String> {
    let mut file = std::io::BufReader::new(std::fs::File::open(path).map_err(text)?);
    let mut head = [0u8; 14];
    let got = file.read(&mut head).map_err(text)?;
    file.rewind().map_err(text)?;
    if head[..got.min(4)] == *b"PK\x03\x04" {
        read_zip(file)
    } else if head == LEGACY_MAGIC {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(text)?;
        read_legacy(&bytes)
    } else {
        Err("neither a PyTorch file nor safetensors".into())
    }
}

fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}

fn read_zip<R: Read + Seek>(file: R) -> Result<Vec<(String, Tensor)>, String> {
    let mut zip = zip::ZipArchive::new(file).map_err(text)?;
    let names: Vec<String> = (0..zip.len())
        .map(|i| zip.by_index_raw(i).and_then(|f| f.name().map(std::borrow::Cow::into_owned)))
        .collect::<std::result::Result<_, _>>()
        .map_err(text)?;
    let pickle = names.iter().find(|n| n.ends_with("data.pkl")).ok_or("a zip file without data.pkl")?;
    let mut bytes = Vec::new();
    zip.by_name(pickle).map_err(text)?.take(1 << 30).read_to_end(&mut bytes).map_err(text)?;
    let object = unpickle(&mut Cursor::new(&bytes))?;
    let folder = pickle.trim_end_matches("data.pkl").to_string();
    let mut cache: HashMap<String, Rc<[u8]>> = HashMap::new();
    tensors(&object, |key, bytes| {
        if let Some(data) = cache.get(key) {
            return Ok(data.clone());
        }
        {
            let mut entry = zip.by_name(&format!("{folder}data/{key}")).map_err(text)?;
            if entry.size() < bytes as u64 {
                return Err(format!("storage {key} has {} bytes, expected {bytes}", entry.size()));
            }
            let mut data = Vec::new();
            entry.by_ref().take(bytes as u64).read_to_end(&mut data).map_err(text)?;
            let data: Rc<[u8]> = data.into();
            cache.insert(key.into(), data.clone());
            Ok(data)
        }
    })
}

/// Magic, protocol, system description, the object, the list of storage keys; then each storage: its length and data.
fn read_legacy(bytes: &[u8]) -> Result<Vec<(String, Tensor)>, String> {
    let mut r = Cursor::new(bytes);
    // The magic number is 80 bits long, more than the unpickler's integers hold; it was compared already.
    r.set_position(LEGACY_MAGIC.len() as u64 + 1);
    for _ in 0..2 {
        unpickle(&mut r)?;
    }
    let object = unpickle(&mut r)?;
    let Object::List(keys) = unpickle(&mut r)? else { return Err("no list of storages".into()) };
    let mut sizes = HashMap::new();
    walk(&object, 0, &mut |_, tensor| {
        let (key, _, _, element, count) = storage_of(tensor)?;
        sizes.insert(key, (element, count));
        Ok(())
    })?;
    let mut at = r.position() as usize;
    let mut storages: HashMap<String, Rc<[u8]>> = HashMap::new();
    for key in keys {
        let Object::Unicode(key) = key else { return Err("a storage key that is not a string".into()) };
        let head = bytes.get(at..at + 8).ok_or("truncated before a storage")?;
        let count = u64::from_le_bytes(head.try_into().map_err(text)?) as usize;
        let Some(&(element, _)) = sizes.get(&key) else { return Err(format!("storage {key} belongs to no tensor")) };
        let len = count.checked_mul(element).ok_or("an absurd storage size")?;
        at += 8;
        let data =
            bytes.get(at..).and_then(|b| b.get(..len)).ok_or_else(|| format!("truncated inside storage {key}"))?;
        storages.insert(key, data.into());
        at += len;
    }
    tensors(&object, |key, bytes| match storages.get(key) {
        Some(s) if s.len() >= bytes => Ok(s.clone()),
        _ => Err(format!("storage {key} is missing or too short")),
    })
}

fn unpickle(r: &mut Cursor<impl AsRef<[u8]>>) -> Result<Object, String> {
    let mut stack = Stack::empty();
    stack.read_loop(r).map_err(text)?;
    stack.finalize().map_err(text)
}

type Meta = candle_core::pickle::TensorInfo;

/// Before PyTorch 0.4 tensors were rebuilt by `_rebuild_tensor`, whose arguments are the first four of `_rebuild_tensor_v2`.
fn modern(tensor: &Object) -> Object {
    match tensor {
        Object::Reduce { callable, args } => {
            let callable = match callable.as_ref() {
                Object::Class { module_name, class_name } if class_name == "_rebuild_tensor" => {
                    Object::Class { module_name: module_name.clone(), class_name: "_rebuild_tensor_v2".into() }
                }
                other => other.clone(),
            };
            let args = match args.as_ref() {
                Object::Tuple(parts) if is_parameter(&callable) => Object::Tuple(parts.iter().map(modern).collect()),
                other => other.clone(),
            };
            Object::Reduce { callable: Box::new(callable), args: Box::new(args) }
        }
        other => other.clone(),
    }
}

fn is_parameter(callable: &Object) -> bool {
    matches!(callable, Object::Class { class_name, .. } if class_name == "_rebuild_parameter")
}

/// (key, info, first element, bytes per element, elements of the storage)
fn storage_of(tensor: &Object) -> Result<(String, Meta, usize, usize, usize), String> {
    let info = modern(tensor)
        .into_tensor_info(Object::Unicode(String::new()), Path::new(""))
        .map_err(text)?
        .ok_or("an object that is not a tensor")?;
    let key = info.path.trim_start_matches('/').to_string();
    let element = info.dtype.size_in_bytes();
    let first = info.layout.start_offset() / element;
    let count = info.storage_size;
    Ok((key, info, first, element, count))
}

fn tensors(
    object: &Object,
    mut storage: impl FnMut(&str, usize) -> Result<Rc<[u8]>, String>,
) -> Result<Vec<(String, Tensor)>, String> {
    let mut out: Vec<(String, Tensor)> = Vec::new();
    walk(object, 0, &mut |name, tensor| {
        let (key, info, first, element, count) = storage_of(tensor).map_err(|e| format!("{name}: {e}"))?;
        let (dims, stride) = (info.layout.dims().to_vec(), info.layout.stride().to_vec());
        let last = dims
            .iter()
            .zip(&stride)
            .try_fold(first, |at, (&d, &s)| d.saturating_sub(1).checked_mul(s)?.checked_add(at));
        let n = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let (Some(last), Some(n)) = (last, n) else { return Err(format!("{name}: an absurd shape {dims:?}")) };
        if n > count {
            return Err(format!("{name}: {dims:?} is more than its storage of {count} values"));
        }
        if n > 0 && last >= count {
            return Err(format!("{name}: {dims:?} reaches past its storage of {count} values"));
        }
        let bytes = storage(&key, count.checked_mul(element).ok_or("an absurd storage size")?)?;
        let mut data = Vec::with_capacity(n * element);
        let mut index = vec![0usize; dims.len()];
        for _ in 0..n {
            let at = first + index.iter().zip(&stride).map(|(i, s)| i * s).sum::<usize>();
            data.extend_from_slice(&bytes[at * element..(at + 1) * element]);
            for d in (0..dims.len()).rev() {
                index[d] += 1;
                if index[d] < dims[d] {
                    break;
                }
                index[d] = 0;
            }
        }
        let t = Tensor::from_raw_buffer(&data, info.dtype, &dims, &Device::Cpu).map_err(|e| format!("{name}: {e}"))?;
        let t = if matches!(info.dtype, DType::F16 | DType::BF16 | DType::F64) {
            t.to_dtype(DType::F32).map_err(text)?
        } else {
            t
        };
        if !out.iter().any(|(n, _)| n == name) {
            out.push((name.into(), t));
        }
        Ok(())
    })?;
    Ok(out)
}

type Visit<'a> = &'a mut dyn FnMut(&str, &Object) -> Result<(), String>;

/// Calls `f` for each tensor of the weights in an object: a state dict, one nested under a known key, or a pickled module.
fn walk(object: &Object, depth: usize, f: Visit<'_>) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("weights nested more than {MAX_DEPTH} deep"));
    }
    match object {
        Object::Dict(entries) => {
            if entries.iter().any(|(_, v)| is_tensor(v)) {
                for (k, v) in entries {
                    if let (Object::Unicode(name), true) = (k, is_tensor(v)) {
                        f(name, v)?;
                    }
                }
                return Ok(());
            }
            let nested = WEIGHT_KEYS.iter().find_map(|key| {
                let hit = |(k, _): &&(Object, Object)| matches!(k, Object::Unicode(k) if k == key);
                entries.iter().find(hit).map(|(_, v)| v)
            });
            nested.map_or(Ok(()), |v| walk(v, depth + 1, f))
        }
        Object::Build { .. } => module(object, "", depth, f),
        _ => Ok(()),
    }
}

/// Tensors of a pickled `nn.Module`: `_parameters` and `_buffers` here, then `_modules`.
fn module(object: &Object, prefix: &str, depth: usize, f: Visit<'_>) -> Result<(), String> {
    let Object::Build { callable, args } = object else { return Ok(()) };
    let Object::Dict(state) = args.as_ref() else {
        // An OrderedDict pickled with its attributes is itself the state dict.
        return if prefix.is_empty() { walk(callable, depth + 1, f) } else { Ok(()) };
    };
    if depth > MAX_DEPTH {
        return Err(format!("modules nested more than {MAX_DEPTH} deep"));
    }
    let part = |key: &str| {
        let hit = state.iter().find(|(k, _)| matches!(k, Object::Unicode(k) if k == key));
        match hit {
            Some((_, Object::Dict(d))) => d.as_slice(),
            _ => &[],
        }
    };
    for (k, v) in part("_parameters").iter().chain(part("_buffers")) {
        if let (Object::Unicode(name), true) = (k, is_tensor(v)) {
            f(&format!("{prefix}{name}"), v)?;
        }
    }
    for (k, v) in part("_modules") {
        if let Object::Unicode(name) = k {
            module(v, &format!("{prefix}{name}."), depth + 1, f)?;
        }
    }
    if prefix.is_empty() && part("_modules").is_empty() && part("_parameters").is_empty() {
        return walk(callable, depth + 1, f);
    }
    Ok(())
}

fn is_tensor(o: &Object) -> bool {
    let Object::Reduce { callable, .. } = o else { return false };
    matches!(callable.as_ref(), Object::Class { module_name, class_name }
        if module_name.starts_with("torch") && class_name.starts_with("_rebuild"))
}

/// Writes f32 tensors as `{"model": {name: tensor}}`, the layout facebookresearch/mae and timm load, in torch's zip format.
///
/// # Errors
/// When a tensor is not f32 on the CPU or the writer fails.
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
        let values: Vec<f32> = t.flatten_all().and_then(|t| t.to_vec1()).map_err(|e| format!("{name}: {e}"))?;
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
        if t.dtype() != DType::F32 {
            return Err(format!("{name}: expected f32, found {:?}", t.dtype()));
        }
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
            stride[d - 1] = stride[d] * t.dims()[d];
        }
        tuple(&mut p, &stride)?;
        p.extend([0x89]);
        p.extend(b"ccollections\nOrderedDict\n)RtR");
    }
    p.extend(b"us.");
    Ok(p)
}
