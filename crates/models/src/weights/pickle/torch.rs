//! The tensors of torch's files: where they lie among a pickle's objects, and their values.

use super::machine::{Id, Node, Object, Pickle, unpickle};
use super::names;
use super::search::Search;
use super::text;
use crate::weights::ClassList;
use crate::weights::dictionary::Dictionary;
use crate::weights::format::{self, Format};
use crate::weights::values::Kind;
use candle_core::Tensor;
use std::collections::HashMap;
use std::io::{BufReader, Read, Seek, SeekFrom};

/// Elements that tensors may have beyond those of their storages (2^27, half a GiB), because strides of 0 repeat values.
const MAX_REPEATED: u64 = 1 << 27;

/// An open file of torch.save.
pub(crate) struct TorchFile<R> {
    pickle: Pickle,
    values: Values<R>,
    /// The tensors by the numbers of their handles.
    found: Vec<Id>,
    /// Storages that several tensors read: how many have yet to, and the bytes.
    kept: HashMap<String, (usize, Vec<u8>)>,
    /// Tensors that were read, by their place in a storage: tied weights are one tensor.
    read: HashMap<Place, Tensor>,
    size: u64,
    repeated: u64,
}

enum Values<R> {
    Zip {
        zip: zip::ZipArchive<BufReader<R>>,
        folder: String,
        big: bool,
    },
    /// First byte and length of each storage.
    Legacy {
        reader: BufReader<R>,
        storages: HashMap<String, (u64, u64)>,
    },
}

/// Where a tensor's values lie.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    storage: String,
    /// The name of the type, which is [`Kind::name`].
    kind: &'static str,
    /// Numbers of the storage.
    count: usize,
    first: usize,
    dims: Vec<usize>,
    strides: Vec<usize>,
}

/// A storage as a pickle describes it.
struct Storage {
    key: String,
    class: String,
    count: usize,
    /// The first number, of a view into another storage.
    first: usize,
}

impl<R: Read + Seek> TorchFile<R> {
    /// Opens a file of `size` bytes in one of torch's two formats and reads what it says about its tensors.
    ///
    /// # Errors
    /// When it is damaged, or a zip archive of something else.
    pub(crate) fn open(file: R, format: Format, size: u64) -> Result<Self, String> {
        let reader = BufReader::new(file);
        let (pickle, values) = match format {
            Format::Zip => open_zip(reader, size)?,
            _ => open_legacy(reader, size)?,
        };
        let (kept, read) = (HashMap::new(), HashMap::new());
        Ok(TorchFile { pickle, values, found: vec![], kept, read, size, repeated: 0 })
    }

    /// Every dictionary of tensors in the file, also those inside others, and every pickled module.
    ///
    /// # Errors
    /// When they are nested without end.
    pub(crate) fn dictionaries(&mut self) -> Result<Vec<Dictionary>, String> {
        let (dictionaries, arrays);
        (dictionaries, self.found, arrays) = Search::new(&self.pickle).run()?;
        if dictionaries.is_empty() {
            return Err(match self.pickle.node(self.pickle.root()) {
                _ if arrays > 0 => format!(
                    "no tensor found, but {arrays} NumPy arrays: save tensors, `{{name: torch.from_numpy(array)}}`, with torch.save"
                ),
                Node::Object(o) if is_tensor(&self.pickle, o) => {
                    "a single tensor: expected a state dict, the tensors by their names".into()
                }
                _ => {
                    "no tensor found: expected a state dict, or one under a key such as `model` or `state_dict`".into()
                }
            });
        }
        Ok(dictionaries)
    }

    /// The lists of class names in the file, beside its tensors.
    pub(crate) fn class_lists(&self) -> Vec<ClassList> {
        names::class_lists(&self.pickle)
    }

    /// Dimensions and type of a tensor.
    ///
    /// # Errors
    /// When it is of a kind that no model here has.
    pub(crate) fn described(&self, index: usize) -> Result<(Vec<usize>, Kind), String> {
        let (place, kind) = describe(&self.pickle, *self.found.get(index).ok_or("no such tensor")?)?;
        Ok((place.dims, kind))
    }

    /// The values of a tensor and the type that the file has them in.
    ///
    /// # Errors
    /// When it is of a kind that no model here has, or its storage is damaged.
    pub(crate) fn tensor(&mut self, index: usize) -> Result<(Tensor, Kind), String> {
        let id = *self.found.get(index).ok_or("no such tensor")?;
        let (place, kind) = describe(&self.pickle, id)?;
        if let Some(t) = self.read.get(&place).cloned() {
            self.give_back(&place.storage, None);
            return Ok((t, kind));
        }
        let Place { count, first, dims, strides, .. } = &place;
        let last = dims
            .iter()
            .zip(strides)
            .try_fold(*first, |at, (&d, &s)| d.saturating_sub(1).checked_mul(s)?.checked_add(at));
        let n = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let (Some(last), Some(n)) = (last, n) else { return Err(format!("an absurd shape {dims:?}")) };
        if n > 0 && last >= *count {
            return Err(format!("{dims:?} with strides {strides:?} reaches past its storage of {count} numbers"));
        }
        self.repeated = self.repeated.saturating_add(n as u64);
        if self.repeated > self.size.saturating_mul(4).saturating_add(MAX_REPEATED) {
            return Err(format!("{dims:?} and the tensors before it repeat the numbers of the file too often"));
        }
        if n == 0 {
            return Ok((kind.decode(vec![], dims, false)?, kind));
        }
        let size = kind.size();
        let bytes = count.checked_mul(size).ok_or("an absurd storage size")?;
        let whole = self.storage(&place.storage, bytes)?;
        let mut data = if row_major(dims, strides) {
            whole[first * size..(first + n) * size].to_vec()
        } else {
            gathered(&whole, size, *first, dims, strides, n)
        };
        data.shrink_to_fit();
        self.give_back(&place.storage, Some(whole));
        let big = matches!(self.values, Values::Zip { big: true, .. });
        let t = kind.decode(data, dims, big)?;
        self.read.insert(place, t.clone());
        Ok((t, kind))
    }

    /// Counts which storages several of the tensors that will be read share, so that each is read once and freed early.
    pub(crate) fn will_read(&mut self, indices: &[usize]) {
        let mut seen: HashMap<String, usize> = HashMap::new();
        for &i in indices {
            if let Some(Ok((place, _))) = self.found.get(i).map(|id| describe(&self.pickle, *id)) {
                *seen.entry(place.storage).or_default() += 1;
            }
        }
        self.kept = seen.into_iter().filter(|(_, n)| *n > 1).map(|(key, n)| (key, (n, vec![]))).collect();
    }

    /// The first `bytes` bytes of a storage.
    fn storage(&mut self, key: &str, bytes: usize) -> Result<Vec<u8>, String> {
        if let Some((_, data)) = self.kept.get_mut(key).filter(|(_, data)| data.len() >= bytes) {
            return Ok(std::mem::take(data));
        }
        let mut data = Vec::new();
        match &mut self.values {
            Values::Zip { zip, folder, .. } => {
                let (entry, checksum) = member(zip, &format!("{folder}data/{key}"), &format!("storage {key}"))?;
                // A storage cannot be larger than the file; memory is taken only for what is there.
                let size = entry.size();
                if size < bytes as u64 || bytes as u64 > self.size {
                    return Err(format!("storage {key} has {size} bytes, expected {bytes}"));
                }
                data.reserve_exact(bytes);
                entry.take(bytes as u64).read_to_end(&mut data).map_err(|e| format!("storage {key}: {e}"))?;
                if checksum.is_some_and(|sum| data.len() as u64 == size && crc32fast::hash(&data) != sum) {
                    return Err(format!(
                        "damaged: the bytes of storage {key} have another checksum than when they were written; copy or download it again"
                    ));
                }
            }
            Values::Legacy { reader, storages } => {
                let &(start, len) = storages.get(key).ok_or_else(|| format!("storage {key} is missing"))?;
                if len < bytes as u64 {
                    return Err(format!("storage {key} has {len} bytes, expected {bytes}"));
                }
                reader.seek(SeekFrom::Start(start)).map_err(text)?;
                data.reserve_exact(bytes);
                reader.take(bytes as u64).read_to_end(&mut data).map_err(text)?;
            }
        }
        match data.len() == bytes {
            true => Ok(data),
            false => Err(format!("truncated inside storage {key}: {} of {bytes} bytes", data.len())),
        }
    }

    /// One tensor of a storage was read; the bytes are kept until the last one was.
    fn give_back(&mut self, key: &str, data: Option<Vec<u8>>) {
        let Some((left, kept)) = self.kept.get_mut(key) else { return };
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.kept.remove(key);
        } else if let Some(data) = data {
            *kept = data;
        }
    }
}

fn row_major(dims: &[usize], strides: &[usize]) -> bool {
    let mut next = 1;
    dims.iter().zip(strides).rev().all(|(&d, &s)| {
        let fits = d == 1 || s == next;
        next *= d;
        fits
    })
}

/// The elements of a tensor with any strides, in row-major order.
fn gathered(bytes: &[u8], size: usize, first: usize, dims: &[usize], strides: &[usize], n: usize) -> Vec<u8> {
    let mut data = Vec::with_capacity(n * size);
    let mut index = vec![0usize; dims.len()];
    let mut at = first;
    for _ in 0..n {
        data.extend_from_slice(&bytes[at * size..(at + 1) * size]);
        for d in (0..dims.len()).rev() {
            index[d] += 1;
            at += strides[d];
            if index[d] < dims[d] {
                break;
            }
            at -= strides[d] * dims[d];
            index[d] = 0;
        }
    }
    data
}

/// Opens a member of an archive, whose members lie there as they are, and tells the checksum that was written with it. torch can
/// leave all checksums out (`torch.serialization.set_crc32_options(False)`); they are 0 then.
fn member<'a, R: Read + Seek>(
    zip: &'a mut zip::ZipArchive<BufReader<R>>,
    name: &str,
    what: &str,
) -> Result<(zip::read::ZipFile<'a, BufReader<R>>, Option<u32>), String> {
    let fail = |e: &zip::result::ZipError| match e {
        zip::result::ZipError::FileNotFound => format!("{what} is missing in the archive"),
        other => format!("{what}: {other}"),
    };
    let index = zip.index_for_name(name).ok_or_else(|| fail(&zip::result::ZipError::FileNotFound))?;
    let entry = zip.by_index_raw(index).map_err(|e| fail(&e))?;
    if entry.compression() != zip::CompressionMethod::Stored || entry.encrypted() {
        return Err(format!(
            "{what} is compressed or encrypted, which torch.save never does: unpack the archive and pack it again uncompressed (`zip -0`), or load and save it in Python"
        ));
    }
    let checksum = Some(entry.crc32()).filter(|sum| *sum != 0);
    Ok((entry, checksum))
}

fn open_zip<R: Read + Seek>(file: BufReader<R>, size: u64) -> Result<(Pickle, Values<R>), String> {
    let mut zip = zip::ZipArchive::new(file)
        .map_err(|e| format!("a truncated or damaged PyTorch file of {size} bytes: {e}; copy or download it again"))?;
    let names: Vec<String> = (0..zip.len())
        .map(|i| zip.by_index_raw(i).and_then(|f| f.name().map(std::borrow::Cow::into_owned)))
        .collect::<Result<_, _>>()
        .map_err(|e| format!("a damaged PyTorch file: {e}"))?;
    if let Some(other) = format::of_zip(&names) {
        return Err(other);
    }
    let pickle =
        names.iter().find(|n| *n == "data.pkl" || n.ends_with("/data.pkl")).ok_or("a zip archive without data.pkl")?;
    let folder = pickle.strip_suffix("data.pkl").unwrap_or_default().to_string();
    let objects = {
        let (mut entry, checksum) = member(&mut zip, pickle, pickle)?;
        let mut bytes = vec![];
        entry.read_to_end(&mut bytes).map_err(|e| format!("{pickle}: {e}"))?;
        if checksum.is_some_and(|sum| crc32fast::hash(&bytes) != sum) {
            return Err(format!(
                "damaged: {pickle} has another checksum than when it was written; copy or download it again"
            ));
        }
        unpickle(&mut &bytes[..])?
    };
    let order = format!("{folder}byteorder");
    let mut big = false;
    if names.contains(&order) {
        let mut word = String::new();
        let entry = member(&mut zip, &order, &order)?.0;
        entry.take(16).read_to_string(&mut word).map_err(text)?;
        big = match word.trim() {
            "little" => false,
            "big" => true,
            other => return Err(format!("the order of bytes is `{other}`, expected little or big")),
        };
    }
    Ok((objects, Values::Zip { zip, folder, big }))
}

/// Magic, protocol, system description, the object, the list of storage keys; then each storage: its length and values.
fn open_legacy<R: Read + Seek>(mut r: BufReader<R>, size: u64) -> Result<(Pickle, Values<R>), String> {
    for _ in 0..3 {
        unpickle(&mut r)?;
    }
    let objects = unpickle(&mut r)?;
    let keys = unpickle(&mut r)?;
    let Node::List(list) = keys.node(keys.root()) else { return Err("the list of storages is missing".into()) };
    // The bytes of an element stand with the tensors. Optimizers' storages lie between those of the weights, so all are looked at.
    let mut sizes: HashMap<String, usize> = HashMap::new();
    for node in objects.nodes() {
        if let Node::Persistent(id) = node
            && let Ok(s) = storage(&objects, *id)
            && let Some(bytes) = element(&s.class)
        {
            sizes.insert(s.key, bytes);
        }
    }
    let mut at = r.stream_position().map_err(text)?;
    let mut storages = HashMap::new();
    for key in list {
        let key = key_of(&keys, *key).ok_or("a storage key that is no text")?;
        let &element = sizes.get(&key).ok_or_else(|| format!("storage {key} belongs to no tensor"))?;
        let mut word = [0; 8];
        r.seek(SeekFrom::Start(at)).map_err(text)?;
        r.read_exact(&mut word).map_err(|_| format!("truncated before storage {key}"))?;
        let bytes = u64::from_le_bytes(word).checked_mul(element as u64).ok_or("an absurd storage size")?;
        let end = (at + 8).checked_add(bytes).filter(|end| *end <= size);
        let end = end
            .ok_or_else(|| format!("truncated inside storage {key}: it has {bytes} bytes at {at}, the file {size}"))?;
        storages.insert(key, (at + 8, bytes));
        at = end;
    }
    Ok((objects, Values::Legacy { reader: r, storages }))
}

/// Bytes of one element of a storage class, also of those whose numbers are not read.
fn element(class: &str) -> Option<usize> {
    Some(match class {
        "UntypedStorage" | "QInt8Storage" | "QUInt8Storage" | "QUInt4x2Storage" | "QUInt2x4Storage" => 1,
        "QInt32Storage" => 4,
        "ComplexFloatStorage" => 8,
        "ComplexDoubleStorage" => 16,
        other => Kind::of_torch(other).ok()?.size(),
    })
}

fn key_of(pickle: &Pickle, id: Id) -> Option<String> {
    match pickle.node(id) {
        Node::Text(s) => Some(s.clone()),
        Node::Int(n) => Some(n.to_string()),
        _ => None,
    }
}

fn number(pickle: &Pickle, id: Id) -> Result<usize, String> {
    match pickle.node(id) {
        Node::Int(n) => usize::try_from(*n).map_err(|_| format!("a size of {n}")),
        _ => Err("a size that is no number".into()),
    }
}

/// `("storage", class, key, device, numbers[, (key, first, numbers)])`.
fn storage(pickle: &Pickle, description: Id) -> Result<Storage, String> {
    let parts = pickle.parts(description);
    let [word, class, key, _, count, rest @ ..] = parts else { return Err("a storage that is not described".into()) };
    if pickle.text(*word) != Some("storage") {
        return Err("a storage that is not described".into());
    }
    let class = pickle.global(*class).ok_or("a storage without a class")?.1.to_string();
    let key = key_of(pickle, *key).ok_or("a storage without a key")?;
    let first = match rest.first().map(|v| pickle.parts(*v)) {
        Some([_, first, _]) => number(pickle, *first)?,
        _ => 0,
    };
    Ok(Storage { key, class, count: number(pickle, *count)?, first })
}

/// The function that would build an object, and its arguments, if it is one of torch's that rebuild tensors.
fn rebuilt<'p>(pickle: &'p Pickle, object: &Object) -> Option<(&'p str, &'p [Id])> {
    let (mut module, mut name) = pickle.global(object.callable)?;
    let mut args = object.args;
    if name == "_rebuild_from_type_v2" {
        // (function, type, arguments, state)
        let parts = pickle.parts(args);
        (module, name) = pickle.global(*parts.first()?)?;
        args = *parts.get(2)?;
    }
    (module.starts_with("torch") && name.starts_with("_rebuild")).then(|| (name, pickle.parts(args)))
}

pub(super) fn is_tensor(pickle: &Pickle, object: &Object) -> bool {
    rebuilt(pickle, object).is_some()
}

/// Where the values of a tensor lie.
fn describe(pickle: &Pickle, tensor: Id) -> Result<(Place, Kind), String> {
    let mut id = tensor;
    // A parameter is built from a tensor.
    for _ in 0..8 {
        let Node::Object(o) = pickle.node(id) else { return Err("an object that is no tensor".into()) };
        let (name, args) = rebuilt(pickle, o).ok_or("an object that is no tensor")?;
        match name {
            "_rebuild_parameter" | "_rebuild_parameter_with_state" => {
                id = *args.first().ok_or("a parameter without a tensor")?;
            }
            "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3" => {
                return dense(pickle, args, name == "_rebuild_tensor_v3");
            }
            "_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor" => {
                return Err("a sparse tensor: save it dense, `tensor.to_dense()`".into());
            }
            "_rebuild_qtensor" => return Err("a quantised tensor: save it as floats, `tensor.dequantize()`".into()),
            "_rebuild_meta_tensor_no_storage" => {
                return Err("a tensor on the device `meta`, which has no values: load the weights before saving".into());
            }
            "_rebuild_nested_tensor" => return Err("a nested tensor: save its parts, or a padded one".into()),
            other => {
                return Err(format!(
                    "a tensor of a kind that is not read here (torch's {other}): save `tensor.detach().cpu()`"
                ));
            }
        }
    }
    Err("a parameter of a parameter without end".into())
}

fn dense(pickle: &Pickle, args: &[Id], typed: bool) -> Result<(Place, Kind), String> {
    let [data, first, dims, strides, rest @ ..] = args else { return Err("a tensor that is not described".into()) };
    let Node::Persistent(description) = pickle.node(*data) else { return Err("a tensor without a storage".into()) };
    let s = storage(pickle, *description)?;
    let kind = if typed {
        let dtype = rest.get(2).and_then(|d| pickle.global(*d)).ok_or("a tensor without a type")?;
        Kind::of_torch(dtype.1)?
    } else {
        Kind::of_torch(&s.class)?
    };
    // A storage without a type counts bytes.
    let count = if s.class == "UntypedStorage" { s.count / kind.size() } else { s.count };
    let sizes = |id: Id| pickle.parts(id).iter().take(17).map(|d| number(pickle, *d)).collect::<Result<Vec<_>, _>>();
    let (dims, strides) = (sizes(*dims)?, sizes(*strides)?);
    if dims.len() != strides.len() || dims.len() > 16 {
        return Err(format!("{} dimensions with {} strides", dims.len(), strides.len()));
    }
    let first = number(pickle, *first)?.checked_add(s.first).ok_or("an absurd place in a storage")?;
    Ok((Place { storage: s.key, kind: kind.name(), count, first, dims, strides }, kind))
}
