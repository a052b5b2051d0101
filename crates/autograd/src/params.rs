//! The parameters of a model by name, in the order in which they were made. Their values are kept in f32 as candle `Var`s; buffers are
//! kept apart from them.

use crate::error::{Error, Result};
use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Shape, Tensor, TensorId, Var};
use candle_nn::init::{FanInOut, NormalOrUniform};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use candlelight_kernels::Key;
use std::collections::HashMap;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

struct Inner {
    device: Device,
    entries: Vec<Entry>,
    buffers: Vec<(String, Tensor)>,
    statistics: Vec<(String, Var)>,
    by_name: HashMap<String, usize>,
}

/// The last parts of the names of running statistics. These are saved, loaded and averaged with the parameters; the forward pass of
/// training changes them, and they never get a gradient.
pub const STATISTICS: [&str; 3] = ["running_mean", "running_var", "num_batches_tracked"];

fn is_statistic(name: &str) -> bool {
    STATISTICS.contains(&name.rsplit('.').next().unwrap_or(name))
}

/// A named parameter.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The state-dict name.
    pub name: String,
    /// The values, in f32.
    pub var: Var,
    /// Whether the parameter trains; false once it is frozen.
    pub trainable: bool,
}

/// The parameters and buffers of a model. Clones share them.
///
/// ```
/// use candlelight_autograd::{Key, ParamStore};
/// let params = ParamStore::new();
/// let vb = params.builder(Key::new(0));
/// let w = vb.pp("head").get_with_hints((10, 4), "weight", candle_nn::Init::Const(0.5))?;
/// assert_eq!(params.names(), ["head.weight"]);
/// assert_eq!(params.freeze("head.*"), 1);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone)]
pub struct ParamStore(Arc<RwLock<Inner>>);

impl std::fmt::Debug for ParamStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inner = self.read();
        write!(f, "ParamStore({} parameters, {} buffers)", inner.entries.len(), inner.buffers.len())
    }
}

impl Default for ParamStore {
    fn default() -> Self {
        Self::new()
    }
}

impl ParamStore {
    /// An empty store on the CPU.
    pub fn new() -> Self {
        Self::on(&Device::Cpu)
    }

    /// An empty store whose parameters and buffers lie on `device`. Initial values are drawn on the host, so they have the same bits on
    /// every device.
    pub fn on(device: &Device) -> Self {
        let (entries, buffers, statistics, by_name) = Default::default();
        ParamStore(Arc::new(RwLock::new(Inner { device: device.clone(), entries, buffers, statistics, by_name })))
    }

    /// The device of the parameters.
    pub fn device(&self) -> Device {
        self.read().device.clone()
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A `VarBuilder` that makes parameters in this store. The initial values of each are drawn from `key` and its own name, with the
    /// distribution that the model asks for, so the order in which a model asks does not matter. A name that is registered as a buffer
    /// gives the buffer. Names that end in one of [`STATISTICS`] make running statistics instead of parameters; a layer may change these
    /// through the tensor's `Var`.
    pub fn builder(&self, key: Key) -> VarBuilder<'static> {
        let backend: Box<dyn SimpleBackend> = Box::new(Backend { store: self.clone(), key });
        VarBuilder::from_backend(backend, DType::F32, self.device())
    }

    /// Registers a tensor that is saved and loaded with the parameters but never trained.
    ///
    /// # Errors
    /// When it cannot be moved to the store's device.
    pub fn insert_buffer(&self, name: impl Into<String>, tensor: Tensor) -> Result<()> {
        let (name, tensor, mut inner) = (name.into(), tensor.to_device(&self.device())?, self.write());
        match inner.buffers.iter_mut().find(|(n, _)| *n == name) {
            Some((_, t)) => *t = tensor,
            None => inner.buffers.push((name, tensor)),
        }
        Ok(())
    }

    /// Every parameter, in the order in which they were made.
    pub fn entries(&self) -> Vec<Entry> {
        self.read().entries.clone()
    }

    /// Names of the parameters, in the order in which they were made.
    pub fn names(&self) -> Vec<String> {
        self.read().entries.iter().map(|e| e.name.clone()).collect()
    }

    /// Number of parameter tensors.
    pub fn len(&self) -> usize {
        self.read().entries.len()
    }

    /// Whether the store has no parameters.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers of values as (all, trainable). Buffers count among all, as PyTorch counts frozen parameters.
    pub fn count(&self) -> (usize, usize) {
        let inner = self.read();
        let of =
            |t: bool| inner.entries.iter().filter(|e| e.trainable || !t).map(|e| e.var.elem_count()).sum::<usize>();
        let buffers: usize = inner.buffers.iter().map(|(_, t)| t.elem_count()).sum();
        (of(false) + buffers, of(true))
    }

    /// The `Var` of a parameter or a running statistic.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn var(&self, name: &str) -> Result<Var> {
        let inner = self.read();
        let statistic = || inner.statistics.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        match inner.by_name.get(name).map(|&i| inner.entries[i].var.clone()).or_else(statistic) {
            Some(var) => Ok(var),
            None => Err(Error::Param { name: name.into(), message: "not in this store".into() }),
        }
    }

    /// Stops training every parameter whose name matches `pattern` (`*` matches any text); returns how many matched.
    pub fn freeze(&self, pattern: &str) -> usize {
        self.set_trainable(pattern, false)
    }

    /// Trains every parameter whose name matches `pattern`; returns how many matched.
    pub fn unfreeze(&self, pattern: &str) -> usize {
        self.set_trainable(pattern, true)
    }

    fn set_trainable(&self, pattern: &str, on: bool) -> usize {
        let mut inner = self.write();
        inner.entries.iter_mut().filter(|e| glob(pattern, &e.name)).map(|e| e.trainable = on).count()
    }

    /// Removes the parameters and statistics whose names match `pattern`, so that a builder makes new ones; returns how many. A model that
    /// holds such tensors keeps them as constants; gradients and optimizers made before do not fit the store any more.
    pub fn forget(&self, pattern: &str) -> usize {
        let mut inner = self.write();
        let before = inner.entries.len() + inner.statistics.len();
        inner.entries.retain(|e| !glob(pattern, &e.name));
        inner.statistics.retain(|(n, _)| !glob(pattern, n));
        inner.by_name = inner.entries.iter().enumerate().map(|(i, e)| (e.name.clone(), i)).collect();
        before - inner.entries.len() - inner.statistics.len()
    }

    /// Parameters, then running statistics, then buffers, by name.
    pub fn state_dict(&self) -> Vec<(String, Tensor)> {
        let mut all = self.values();
        all.extend(self.read().buffers.iter().cloned());
        all
    }

    /// Parameters, then running statistics, by name: what training changes.
    pub fn values(&self) -> Vec<(String, Tensor)> {
        let inner = self.read();
        let params = inner.entries.iter().map(|e| (e.name.clone(), e.var.as_tensor().detach()));
        params.chain(inner.statistics.iter().map(|(n, v)| (n.clone(), v.as_tensor().detach()))).collect()
    }

    /// Overwrites the values of a parameter or a running statistic in place.
    ///
    /// # Errors
    /// When there is none of this name or the shape differs.
    pub fn set(&self, name: &str, value: &Tensor) -> Result<()> {
        let var = self.var(name)?;
        if var.dims() != value.dims() {
            let message = format!("has shape {:?}, the new value {:?}", var.dims(), value.dims());
            return Err(Error::Param { name: name.into(), message });
        }
        Ok(var.set(&value.to_device(var.device())?.to_dtype(DType::F32)?.contiguous()?)?)
    }

    /// Calls `f` with the values of a parameter, so that it can change them in place.
    ///
    /// # Errors
    /// The errors of `f`, and when the parameter is not f32 on the CPU.
    pub fn update<R>(var: &Var, f: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
        struct Op<F, R>(std::sync::Mutex<(Option<F>, Option<R>)>);
        impl<R, F: FnOnce(&mut [f32]) -> R> InplaceOp1 for Op<F, R> {
            fn name(&self) -> &'static str {
                "update"
            }
            fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
                let CpuStorage::F32(v) = storage else { candle_core::bail!("expected a parameter in f32") };
                let Some((start, end)) = layout.contiguous_offsets() else {
                    candle_core::bail!("expected a contiguous parameter")
                };
                let mut cell = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if let Some(f) = cell.0.take() {
                    cell.1 = Some(f(&mut v[start..end]));
                }
                Ok(())
            }
        }
        let op = Op(std::sync::Mutex::new((Some(f), None)));
        var.inplace_op1(&op)?;
        let (_, result) = op.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        result.ok_or_else(|| Error::Shape { op: "update", message: "the parameter is not on the CPU".into() })
    }

    /// The names of all parameters and running statistics, by their tensors.
    pub fn by_id(&self) -> HashMap<TensorId, String> {
        let inner = self.read();
        let params = inner.entries.iter().map(|e| (e.var.id(), e.name.clone()));
        params.chain(inner.statistics.iter().map(|(n, v)| (v.id(), n.clone()))).collect()
    }

    /// Maps the tensor id of every trainable parameter to its place in the store.
    pub(crate) fn index(&self) -> HashMap<TensorId, usize> {
        let inner = self.read();
        inner.entries.iter().enumerate().filter(|(_, e)| e.trainable).map(|(i, e)| (e.var.id(), i)).collect()
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any text.
pub fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut rest = rest;
    let tail: Vec<&str> = parts.collect();
    let Some((last, middle)) = tail.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

struct Backend {
    store: ParamStore,
    key: Key,
}

impl Backend {
    fn draw(&self, shape: &Shape, name: &str, init: Init) -> candle_core::Result<Tensor> {
        let (n, key) = (shape.elem_count(), self.key.child(name));
        let uniform = |key: Key, lo: f64, up: f64| {
            key.uniform(n).into_iter().map(|u| (lo + f64::from(u) * (up - lo)) as f32).collect::<Vec<_>>()
        };
        let normal = |key: Key, mean: f64, std: f64| {
            key.normal(n).into_iter().map(|z| (mean + f64::from(z) * std) as f32).collect::<Vec<_>>()
        };
        let values = match init {
            Init::Const(c) => vec![c as f32; n],
            Init::Uniform { lo, up } => uniform(key, lo, up),
            Init::Randn { mean, stdev } => normal(key, mean, stdev),
            Init::Kaiming { dist, fan, non_linearity } => {
                let fan = match fan {
                    FanInOut::FanIn => shape.dims().iter().skip(1).product::<usize>(),
                    FanInOut::FanOut => {
                        shape.dims().first().copied().unwrap_or(1) * shape.dims().iter().skip(2).product::<usize>()
                    }
                };
                let std = non_linearity.gain() / (fan.max(1) as f64).sqrt();
                match dist {
                    NormalOrUniform::Uniform => uniform(key, -(3f64.sqrt()) * std, 3f64.sqrt() * std),
                    NormalOrUniform::Normal => normal(key, 0.0, std),
                }
            }
        };
        Tensor::from_vec(values, shape.clone(), &self.store.device())
    }
}

impl SimpleBackend for Backend {
    fn get(&self, s: Shape, name: &str, h: Init, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        let fits = |t: &Tensor| {
            if t.shape() == &s {
                Ok(t.clone())
            } else {
                candle_core::bail!("{name}: the store has shape {:?}, the model wants {:?}", t.dims(), s.dims())
            }
        };
        if let Some((_, t)) = self.store.read().buffers.iter().find(|(n, _)| n == name) {
            return fits(t);
        }
        if let Ok(var) = self.store.var(name) {
            return fits(var.as_tensor());
        }
        let var = Var::from_tensor(&self.draw(&s, name, h)?)?;
        let tensor = var.as_tensor().clone();
        let mut inner = self.store.write();
        if is_statistic(name) {
            inner.statistics.push((name.into(), var));
            return Ok(tensor);
        }
        let place = inner.entries.len();
        inner.by_name.insert(name.into(), place);
        inner.entries.push(Entry { name: name.into(), var, trainable: true });
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        Ok(self.store.var(name)?.as_tensor().clone())
    }

    fn contains_tensor(&self, name: &str) -> bool {
        let inner = self.store.read();
        inner.by_name.contains_key(name)
            || inner.buffers.iter().any(|(n, _)| n == name)
            || inner.statistics.iter().any(|(n, _)| n == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_shells_do() {
        for (p, t, want) in [
            ("*", "", true),
            ("*.bias", "blocks.0.bias", true),
            ("*.bias", "bias", false),
            ("blocks.*.attn.*", "blocks.11.attn.qkv.weight", true),
            ("blocks.1.*", "blocks.11.x", false),
            ("head", "head.weight", false),
            ("head*", "head.weight", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(glob(p, t), want, "{p} {t}");
        }
    }

    #[test]
    fn values_depend_on_the_name_and_not_on_the_order() {
        let make = |names: [&str; 2]| {
            let store = ParamStore::new();
            let vb = store.builder(Key::new(1));
            for n in names {
                vb.get_with_hints(5, n, Init::Randn { mean: 0.0, stdev: 1.0 }).unwrap();
            }
            store.var("a").unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(make(["a", "b"]), make(["b", "a"]));
    }

    #[test]
    fn running_statistics_are_state_but_not_parameters() {
        let store = ParamStore::new();
        let vb = store.builder(Key::new(1)).pp("bn");
        vb.get(3, "weight").unwrap();
        let mean = vb.get(3, "running_mean").unwrap();
        assert_eq!((store.names(), store.len(), store.count()), (vec!["bn.weight".to_string()], 1, (3, 3)));
        assert_eq!(store.state_dict()[1].0, "bn.running_mean");
        let new = Tensor::new(&[1f32, 2.0, 3.0], &Device::Cpu).unwrap();
        Var::from_tensor(&mean).unwrap().set(&new).unwrap();
        assert_eq!(store.var("bn.running_mean").unwrap().to_vec1::<f32>().unwrap(), [1.0, 2.0, 3.0]);
        assert!(store.builder(Key::new(1)).contains_tensor("bn.running_mean"));
        assert_eq!(store.freeze("*"), 1);
    }

    #[test]
    fn wrong_names_and_shapes_are_named() {
        let store = ParamStore::new();
        let vb = store.builder(Key::new(1));
        vb.get((2, 3), "w").unwrap();
        assert!(vb.get((3, 3), "w").unwrap_err().to_string().contains("[2, 3]"));
        let e = store.set("w", &Tensor::zeros(6, DType::F32, &Device::Cpu).unwrap()).unwrap_err().to_string();
        assert!(e.contains("parameter w") && e.contains("[6]"), "{e}");
        assert!(store.var("v").is_err());
    }
}
