//! Files of torch.save of every kind, put together byte by byte.

use super::{from_bytes, write};
use crate::weights::{Options, Weights};
use candle_core::{Device, Tensor};
use std::io::{Cursor, Write};

fn text(s: &str) -> Vec<u8> {
    [&b"X"[..], &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat()
}

fn int(n: usize) -> Vec<u8> {
    [&b"J"[..], &(n as u32).to_le_bytes()].concat()
}

fn tuple(parts: &[Vec<u8>]) -> Vec<u8> {
    [&b"("[..], &parts.concat(), b"t"].concat()
}

fn dict(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> = items.iter().flat_map(|(k, v)| [text(k), v.clone()].concat()).collect();
    [&b"}("[..], &items, b"u"].concat()
}

fn ints(n: &[usize]) -> Vec<u8> {
    tuple(&n.iter().map(|n| int(*n)).collect::<Vec<_>>())
}

fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

fn storage(class: &str, key: &str, count: usize) -> Vec<u8> {
    [tuple(&[text("storage"), global("torch", class), text(key), text("cpu"), int(count)]), b"Q".to_vec()].concat()
}

/// A tensor of `dims` and `strides`, from number `first` on of a storage.
fn tensor(storage: &[u8], first: usize, dims: &[usize], strides: &[usize]) -> Vec<u8> {
    let args = tuple(&[storage.to_vec(), int(first), ints(dims), ints(strides), vec![0x89], b"}".to_vec()]);
    [global("torch._utils", "_rebuild_tensor_v2"), args, b"R".to_vec()].concat()
}

/// A vector of f32 in a storage of its own.
fn vector(key: &str, n: usize) -> Vec<u8> {
    tensor(&storage("FloatStorage", key, n), 0, &[n], &[1])
}

fn module(
    parameters: &[(&str, Vec<u8>)],
    buffers: &[(&str, Vec<u8>)],
    hidden: &str,
    modules: &[(&str, Vec<u8>)],
) -> Vec<u8> {
    let set =
        [global("__builtin__", "set"), tuple(&[[&b"]"[..], &text(hidden), b"a"].concat()]), b"R".to_vec()].concat();
    let state = dict(&[
        ("training", vec![0x88]),
        ("_parameters", dict(parameters)),
        ("_buffers", dict(buffers)),
        ("_non_persistent_buffers_set", set),
        ("_modules", dict(modules)),
    ]);
    [global("my.nets", "Net"), b")\x81".to_vec(), state, b"b".to_vec()].concat()
}

fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(vec![]));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, data) in entries {
        zip.start_file(*name, stored).unwrap();
        zip.write_all(data).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A zip file of a pickled object and storages 0, 1, .. of f32.
fn file(object: &[u8], storages: &[&[f32]]) -> Vec<u8> {
    let pickle = [&[0x80, 2], object, b"."].concat();
    let bytes: Vec<Vec<u8>> = storages.iter().map(|s| s.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let names: Vec<String> = (0..bytes.len()).map(|i| format!("archive/data/{i}")).collect();
    let mut entries: Vec<(&str, &[u8])> = vec![("archive/data.pkl", &pickle)];
    entries.extend(names.iter().zip(&bytes).map(|(n, b)| (n.as_str(), b.as_slice())));
    zip(&entries)
}

fn open(bytes: &[u8], options: &Options) -> Result<Weights, String> {
    from_bytes(bytes, options).map_err(|e| e.to_string())
}

fn read(object: &[u8], storages: &[&[f32]]) -> Result<Weights, String> {
    open(&file(object, storages), &Options::default())
}

fn names(w: &Weights) -> Vec<&str> {
    w.tensors.iter().map(|(n, _)| n.as_str()).collect()
}

fn values(w: &Weights, name: &str) -> Vec<f32> {
    let t = &w.tensors.iter().find(|(n, _)| n == name).unwrap().1;
    t.to_dtype(candle_core::DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

const SIX: &[f32] = &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0];

#[test]
fn a_state_dict_is_found_under_any_nesting() {
    let state = || dict(&[("a.weight", vector("0", 6)), ("a.bias", vector("1", 6)), ("b.weight", vector("2", 6))]);
    let stray = || tensor(&storage("FloatStorage", "0", 6), 5, &[], &[]);
    let list = [&b"]("[..], &dict(&[("net", state())]), b"e"].concat();
    for object in [
        state(),
        dict(&[("epoch", int(90)), ("state_dict", state()), ("best_acc1", stray())]),
        dict(&[("rng_state", stray()), ("model", state())]),
        dict(&[("acc", stray()), ("anything", dict(&[("inner", state())]))]),
        dict(&[("optimizer", dict(&[("state", dict(&[("0", state())]))])), ("model_state_dict", state())]),
        tuple(&[int(3), state()]),
        list,
        // An ordered dictionary with attributes.
        [
            global("collections", "OrderedDict"),
            b")R(".to_vec(),
            state()[2..].to_vec(),
            dict(&[("_metadata", int(1))]),
            b"b".to_vec(),
        ]
        .concat(),
    ] {
        let storages: [&[f32]; 3] = [SIX, SIX, SIX];
        let w = read(&object, &storages).unwrap();
        assert_eq!(names(&w), ["a.bias", "a.weight", "b.weight"]);
        assert_eq!(values(&w, "a.weight"), SIX);
    }
}

#[test]
fn of_several_sets_the_raw_one_is_read_and_others_when_asked_for() {
    let set = |key: &str| dict(&[("module.w", vector(key, 6)), ("module.v", vector(key, 6))]);
    let bytes = file(&dict(&[("state_dict", set("0")), ("state_dict_ema", set("1"))]), &[SIX, &[7.0; 6]]);
    let raw = open(&bytes, &Options::default()).unwrap();
    assert_eq!((values(&raw, "w"), raw.set.as_str(), raw.has_average()), (SIX.to_vec(), "state_dict", true));
    assert!(
        raw.notes[0].contains("`state_dict_ema` (2 tensors)") && raw.notes[1].contains("`module.`"),
        "{:?}",
        raw.notes
    );
    let ema = open(&bytes, &Options::ema()).unwrap();
    assert_eq!((values(&ema, "w"), ema.has_average()), (vec![7.0; 6], false));
    let bytes = file(&dict(&[("student", set("0")), ("teacher", set("1"))]), &[SIX, &[7.0; 6]]);
    let e = open(&bytes, &Options::default()).unwrap_err();
    assert!(e.contains("student") && e.contains("teacher") && e.contains("set"), "{e}");
    assert_eq!(values(&open(&bytes, &Options::set("teacher")).unwrap(), "w"), [7.0; 6]);
}

#[test]
fn views_expanded_and_shared_tensors_are_read() {
    let s = || storage("FloatStorage", "0", 6);
    let w = read(
        &dict(&[
            ("transposed", tensor(&s(), 0, &[3, 2], &[1, 3])),
            ("part", tensor(&s(), 2, &[2], &[3])),
            ("expanded", tensor(&s(), 4, &[2, 3], &[0, 0])),
            ("tied", tensor(&s(), 0, &[6], &[1])),
            ("again", tensor(&s(), 0, &[6], &[1])),
            ("scalar", tensor(&s(), 3, &[], &[])),
            ("nothing", tensor(&s(), 0, &[0, 4], &[4, 1])),
            ("rows", tensor(&s(), 3, &[1, 3], &[99, 1])),
        ]),
        &[SIX],
    )
    .unwrap();
    assert_eq!(values(&w, "transposed"), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(values(&w, "part"), [2.0, 5.0]);
    assert_eq!(values(&w, "expanded"), [4.0; 6]);
    assert_eq!((values(&w, "tied"), values(&w, "again")), (SIX.to_vec(), SIX.to_vec()));
    assert_eq!(
        (values(&w, "scalar"), values(&w, "nothing"), values(&w, "rows")),
        (vec![3.0], vec![], vec![3.0, 4.0, 5.0])
    );
}

#[test]
fn tensors_that_no_model_has_are_refused_by_name() {
    let sparse = [global("torch._utils", "_rebuild_sparse_tensor"), tuple(&[int(0)]), b"R".to_vec()].concat();
    let float8 = [
        global("torch._utils", "_rebuild_tensor_v3"),
        tuple(&[
            storage("UntypedStorage", "0", 24),
            int(0),
            ints(&[6]),
            ints(&[1]),
            vec![0x89],
            b"}".to_vec(),
            global("torch", "float8_e4m3fn"),
        ]),
        b"R".to_vec(),
    ]
    .concat();
    let typed = |class: &str| tensor(&storage(class, "0", 2), 0, &[2], &[1]);
    for (bad, words) in [
        (sparse, "layer.w: a sparse tensor"),
        (float8, "float8_e4m3fn"),
        (typed("ComplexFloatStorage"), "complex"),
        (typed("QInt8Storage"), "quantised"),
        (tensor(&storage("FloatStorage", "0", 6), 0, &[7], &[1]), "reaches past its storage of 6"),
        (tensor(&storage("FloatStorage", "0", 600), 0, &[7], &[1]), "storage 0 has 24 bytes, expected 2400"),
        (tensor(&storage("FloatStorage", "9", 6), 0, &[6], &[1]), "storage 9 is missing"),
        (tensor(&storage("FloatStorage", "0", 6), 0, &[1 << 30, 1 << 30, 1 << 30], &[0, 0, 0]), "absurd"),
        (tensor(&storage("FloatStorage", "0", 6), 0, &[1 << 15, 1 << 15], &[0, 0]), "too often"),
        (tensor(&storage("FloatStorage", "0", 6), 0, &[2, 3], &[1]), "2 dimensions with 1 strides"),
    ] {
        let e = read(&dict(&[("layer.w", bad), ("layer.b", vector("0", 6))]), &[SIX]).unwrap_err();
        assert!(e.contains(words) && e.contains("layer.w"), "{words}: {e}");
    }
}

#[test]
fn bools_integers_halves_and_big_endian_files_are_read() {
    let object = dict(&[
        ("flags", tensor(&storage("BoolStorage", "0", 2), 0, &[2], &[1])),
        ("index", tensor(&storage("IntStorage", "1", 2), 0, &[2], &[1])),
        ("half", tensor(&storage("BFloat16Storage", "2", 2), 0, &[2], &[1])),
    ]);
    let pickle = [&[0x80, 2], &object[..], b"."].concat();
    let bytes = zip(&[
        ("data.pkl", &pickle),
        ("byteorder", b"big"),
        ("data/0", &[1, 0]),
        ("data/1", &[0, 0, 1, 0, 0xff, 0xff, 0xff, 0xff]),
        ("data/2", &[0x3f, 0x80, 0xc0, 0]),
    ]);
    let w = open(&bytes, &Options::default()).unwrap();
    assert_eq!(
        (values(&w, "flags"), values(&w, "index"), values(&w, "half")),
        (vec![1.0, 0.0], vec![256.0, -1.0], vec![1.0, -2.0])
    );
    assert_eq!(w.notes, ["1 tensor of bfloat16 brought to float32"]);
}

#[test]
fn pickled_modules_give_their_state_dict() {
    let layer =
        module(&[("weight", vector("0", 6))], &[("mean", vector("0", 6)), ("table", vector("0", 6))], "table", &[]);
    let net = module(&[("token", vector("0", 6))], &[], "", &[("0", layer.clone()), ("1", layer)]);
    let wrapped = module(&[], &[], "", &[("module", net.clone())]);
    for object in [net.clone(), wrapped, dict(&[("model", net.clone()), ("epoch", int(3))])] {
        let w = read(&object, &[SIX]).unwrap();
        assert_eq!(names(&w), ["0.mean", "0.weight", "1.mean", "1.weight", "token"]);
    }
    // An average kept by an object that is no module.
    let keeper = [global("my.tools", "Keeper"), b")\x81".to_vec(), dict(&[("ema", net)]), b"b".to_vec()].concat();
    let w = read(&keeper, &[SIX]).unwrap();
    assert!(w.sets[0].averaged && w.notes[0].contains("moving average"), "{:?}", w.notes);
}

#[test]
fn other_archives_and_objects_are_refused_by_name() {
    let e = open(
        &zip(&[("m/code/__torch__.py", b"x"), ("m/data.pkl", b"N."), ("m/constants.pkl", b"N.")]),
        &Options::default(),
    );
    assert!(e.unwrap_err().contains("TorchScript"));
    let array = [global("numpy.core.multiarray", "_reconstruct"), b")R".to_vec()].concat();
    for (object, word) in
        [(dict(&[("w", array)]), "1 NumPy arrays"), (vector("0", 6), "a single tensor"), (int(7), "no tensor found")]
    {
        let e = read(&object, &[SIX]).unwrap_err();
        assert!(e.contains(word), "{e}");
    }
    let twice = dict(&[
        ("module.conv1.weight", vector("0", 6)),
        ("module.module.x", vector("0", 6)),
        ("module.x", vector("0", 6)),
    ]);
    let e = read(&twice, &[SIX]);
    assert_eq!(names(&e.unwrap()), ["conv1.weight", "module.x", "x"]);
    let twice = dict(&[("module.conv1.weight", vector("0", 6)), ("x", vector("0", 6)), ("module.x", vector("0", 6))]);
    assert!(read(&twice, &[SIX]).unwrap_err().contains("two tensors are named x"));
}

#[test]
fn hostile_pickles_end_soon() {
    let mut deep = b"N".to_vec();
    deep.extend(vec![0x85; 3_000_000]);
    assert!(read(&deep, &[]).is_err());
    // Dictionaries inside one another, and modules that contain themselves twice.
    let nested = (0..200).fold(vector("0", 6), |inner, _| dict(&[("model", inner)]));
    assert!(read(&nested, &[SIX]).unwrap_err().contains("nested more than 64 deep"));
    let start = [global("my.nets", "Net"), b")\x81q\x07".to_vec()].concat();
    let itself = dict(&[("a", b"h\x07".to_vec()), ("b", b"h\x07".to_vec())]);
    let state = dict(&[("_parameters", dict(&[("w", vector("0", 6))])), ("_modules", itself)]);
    let e = read(&[start, state, b"b".to_vec()].concat(), &[SIX]).unwrap_err();
    assert!(e.contains("nested") || e.contains("contain one another"), "{e}");
}

#[test]
fn twenty_thousand_damaged_files_are_errors_or_tensors() {
    let layer = module(&[("weight", vector("0", 6))], &[], "x", &[]);
    let strided = tensor(&storage("FloatStorage", "0", 6), 0, &[3, 2], &[1, 3]);
    let objects = [
        dict(&[("state_dict", dict(&[("module.a", vector("0", 6)), ("module.b", strided)])), ("epoch", int(3))]),
        dict(&[("model", module(&[], &[], "x", &[("0", layer)]))]),
    ];
    let pickles: Vec<Vec<u8>> = objects.iter().map(|o| [&[0x80, 2], &o[..], b"."].concat()).collect();
    let mut written = Cursor::new(vec![]);
    write(&mut written, &[("a.w".into(), Tensor::ones((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap())])
        .unwrap();
    let whole = written.into_inner();
    let storage: Vec<u8> = SIX.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut rng = candlelight_kernels::rng::Key::new(7).rng();
    let mut below = |n: usize| rng.below(n.max(1) as u64) as usize;
    let mut read = 0;
    for i in 0..20_000 {
        // Half of the damage is done to the pickle, where the checksums of the archive cannot see it.
        let mut bytes = if i % 2 == 0 { whole.clone() } else { pickles[below(pickles.len())].clone() };
        for _ in 0..=below(4) {
            if bytes.len() < 2 {
                break;
            }
            let at = below(bytes.len());
            match below(5) {
                0 => bytes[at] ^= 1 << below(8),
                1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'.', b'(', b'h', b'Q', b'R'][below(10)],
                2 => bytes.insert(at, below(256) as u8),
                3 => drop(bytes.remove(at)),
                _ => bytes.truncate(at.max(1)),
            }
        }
        if i % 2 == 1 {
            bytes = zip(&[("archive/data.pkl", &bytes), ("archive/data/0", &storage)]);
        }
        read += usize::from(from_bytes(&bytes, &Options::default()).is_ok());
    }
    assert!(read > 100 && read < 19_000, "{read}");
}

#[test]
fn class_names_beside_the_weights_are_found() {
    let list = |names: &[&str]| {
        let parts: Vec<u8> = names.iter().flat_map(|n| text(n)).collect();
        [&b"]("[..], &parts, b"e"].concat()
    };
    let numbered = dict(&[("dog", int(1)), ("cat", int(0))]);
    let holes = dict(&[("dog", int(2)), ("cat", int(0))]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.pth");
    let found = |items: &[(&str, Vec<u8>)]| {
        let weights = ("state_dict", dict(&[("fc.bias", vector("0", 2))]));
        let all: Vec<_> = std::iter::once(weights).chain(items.iter().cloned()).collect();
        std::fs::write(&path, file(&dict(&all), &[&[1.0, 2.0]])).unwrap();
        let lists = crate::weights::class_lists(&path).unwrap();
        lists.into_iter().map(|l| (l.key, l.names.join(" "))).collect::<Vec<_>>()
    };
    let one = |key: &str| vec![(key.to_string(), "cat dog".to_string())];
    assert_eq!(found(&[("class_to_idx", numbered.clone())]), one("class_to_idx"));
    assert_eq!(found(&[("classes", list(&["cat", "dog"]))]), one("classes"));
    assert_eq!(found(&[("classes", list(&["cat", "dog"])), ("class_to_idx", numbered.clone())]), one("classes"));
    let nested = dict(&[("data", dict(&[("class_to_idx", numbered)]))]);
    assert_eq!(found(&[("hyper_parameters", nested)]), one("hyper_parameters.data.class_to_idx"));
    let by_number = [&b"}("[..], &int(1), &text("dog"), &int(0), &text("cat"), b"u"].concat();
    assert_eq!(found(&[("names", by_number)]), one("names"));
    assert_eq!(found(&[("class_to_idx", holes), ("epoch", int(3))]), vec![]);
}

#[test]
fn damaged_values_are_told_by_their_checksums() {
    let object = dict(&[("a", vector("0", 2)), ("b", vector("1", 2))]);
    let good = file(&object, &[&[1.5, 2.5], &[3.5, 4.5]]);
    let flip = |bytes: &[u8], value: f32| {
        let mut bytes = bytes.to_vec();
        let at = bytes.windows(4).position(|w| w == value.to_le_bytes()).unwrap();
        bytes[at] ^= 1;
        bytes
    };
    assert!(from_bytes(&good, &Options::default()).unwrap().notes.is_empty());
    let one = flip(&good, 1.5);
    let e = from_bytes(&one, &Options::default()).unwrap_err().to_string();
    assert!(e.contains("storage 0") && e.contains("checksum") && e.contains("again"), "{e}");
    // torch can write a file without any checksum: they are 0 in the archive's directory and before each member.
    let mut none = one;
    for (signature, at) in [(b"PK\x03\x04", 14), (b"PK\x01\x02", 16)] {
        let places: Vec<usize> = (0..none.len() - 4).filter(|&i| none[i..].starts_with(signature)).collect();
        places.iter().for_each(|i| none[i + at..i + at + 4].fill(0));
    }
    assert!(from_bytes(&none, &Options::default()).is_ok());
}
