//! An exponential moving average of the weights.

use crate::{Error, Result};
#[cfg(feature = "cuda")]
use candle_core::DType;
use candle_core::{Tensor, Var};
use candlelight_autograd::{CpuSlice, ParamStore};
use candlelight_kernels::elementwise::average;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The settings of an exponential moving average of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmaConfig {
    /// The decay of the average, in [0, 1): the share of the old average that each update keeps.
    pub decay: f64,
    /// Whether the decay starts small and grows to `decay`, as in timm.
    #[serde(default)]
    pub warmup: bool,
    /// Updates after which the decay has grown to 63 % of `decay`, as in YOLOv5: at update s it is `decay (1 - e^(-s / tau))`. It goes before
    /// `warmup`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tau: Option<f64>,
}

/// The moving average `e = d e + (1 - d) p` of every parameter and buffer, as timm's `ModelEmaV3`. The first update copies the weights;
/// with warm-up the decay at update s is `1 - s^(-2/3)`, at most `d`. With `tau` the first update averages too, as YOLOv5's does.
#[derive(Debug)]
pub struct Ema {
    config: EmaConfig,
    pub(crate) updates: u64,
    values: Vec<(String, Var)>,
}

impl Ema {
    /// An average that starts with the present weights.
    ///
    /// # Errors
    /// When the decay is not in [0, 1).
    pub fn new(params: &ParamStore, decay: f64, warmup: bool) -> Result<Self> {
        Self::of(params, EmaConfig { decay, warmup, tau: None })
    }

    /// An average with these settings, that starts with the present weights.
    ///
    /// # Errors
    /// When the decay is not in [0, 1), or `tau` not above 0.
    pub fn of(params: &ParamStore, config: EmaConfig) -> Result<Self> {
        if !(0.0..1.0).contains(&config.decay) {
            return Err(Error::Config(format!("an EMA decay of {} is not in [0, 1)", config.decay)));
        }
        if let Some(tau) = config.tau.filter(|t| !(*t > 0.0 && t.is_finite())) {
            return Err(Error::Config(format!("an EMA's tau of {tau} is not above 0")));
        }
        let copy = |(n, t): (String, Tensor)| Ok((n, Var::from_tensor(&t.copy()?)?));
        let values = params.state_dict().into_iter().map(copy).collect::<Result<_>>()?;
        Ok(Ema { config, updates: 0, values })
    }

    /// The decay that update `s` uses; updates count from 1.
    pub fn decay_at(&self, s: u64) -> f64 {
        let EmaConfig { decay, warmup, tau } = self.config;
        match tau {
            Some(tau) => decay * (1.0 - (-(s as f64) / tau).exp()),
            None if s <= 1 => 0.0,
            None if warmup => (1.0 - (s as f64).powf(-2.0 / 3.0)).min(decay),
            None => decay,
        }
    }

    /// Updates the average with the present weights.
    ///
    /// # Errors
    /// When the store has other parameters than at the start.
    pub fn update(&mut self, params: &ParamStore) -> Result<()> {
        self.update_with(
            params,
            #[cfg(feature = "cuda")]
            None,
        )
    }

    /// The update, which a device makes where the second number of `factor` says so.
    pub(crate) fn update_with(
        &mut self,
        params: &ParamStore,
        #[cfg(feature = "cuda")] factor: Option<&candlelight_kernels::cuda::Buffer>,
    ) -> Result<()> {
        self.updates += 1;
        let d = self.decay_at(self.updates);
        let now = params.state_dict();
        if now.len() != self.values.len() {
            return Err(Error::State(format!(
                "the average has {} tensors, the model {}",
                self.values.len(),
                now.len()
            )));
        }
        #[cfg(feature = "cuda")]
        let mut pairs = vec![];
        for ((name, e), (other, p)) in self.values.iter_mut().zip(&now) {
            if name != other {
                return Err(Error::State(format!("the average has {name} where the model has {other}")));
            }
            if d == 0.0 || is_counter(name) {
                e.set(p)?;
            } else if p.device().is_cpu() {
                let p = CpuSlice::new("ema", p)?;
                ParamStore::update(e, |e| average((1.0 - d) as f32, &p, e))??;
            } else {
                #[cfg(feature = "cuda")]
                if p.device().is_cuda() && p.elem_count() > 0 && p.is_contiguous() && p.dtype() == DType::F32 {
                    pairs.push((&*e, p));
                    continue;
                }
                let next = ((e.as_tensor().detach() * d)? + (p * (1.0 - d))?)?;
                e.set(&next)?;
            }
        }
        #[cfg(feature = "cuda")]
        let pairs: Vec<_> = pairs.iter().map(|(e, p)| (e.as_tensor(), *p)).collect();
        #[cfg(feature = "cuda")]
        crate::fused::average(&pairs, (1.0 - d) as f32, factor)?;
        Ok(())
    }

    /// Copies what counts and is not averaged.
    pub(crate) fn copy_counters(&mut self, params: &ParamStore) -> Result<()> {
        let now: HashMap<String, Tensor> = params.state_dict().into_iter().filter(|(n, _)| is_counter(n)).collect();
        for (name, e) in &mut self.values {
            if let Some(p) = now.get(name) {
                e.set(p)?;
            }
        }
        Ok(())
    }

    /// The averaged weights by name.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.values.iter().map(|(n, v)| (n.clone(), v.as_tensor().detach())).collect()
    }

    /// The number of updates so far.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Takes over saved averages.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape; then nothing is changed.
    pub fn load_state(&mut self, state: &HashMap<String, Tensor>, updates: u64) -> Result<()> {
        self.load_state_with(updates, |name| Ok::<_, Error>(state.get(name).cloned()))
    }

    /// Takes over saved averages that `read` gives by name, one tensor at a time. It is asked twice for each, to check all before any is
    /// changed.
    ///
    /// # Errors
    /// The errors of `read`, and when a tensor is missing or has another shape; then nothing is changed.
    pub fn load_state_with<E: From<Error>>(
        &mut self,
        updates: u64,
        mut read: impl FnMut(&str) -> Result<Option<Tensor>, E>,
    ) -> Result<(), E> {
        let mut checked = |name: &str, have: &Var| -> Result<Tensor, E> {
            match read(name)? {
                Some(t) if t.dims() == have.dims() => Ok(t),
                Some(t) => {
                    let (found, expected) = (t.dims(), have.dims());
                    Err(Error::State(format!("ema.{name} has shape {found:?}, expected {expected:?}")).into())
                }
                None => Err(Error::State(format!("ema.{name} is missing")).into()),
            }
        };
        for (name, have) in &self.values {
            checked(name, have)?;
        }
        for (name, have) in &self.values {
            let t = checked(name, have)?;
            t.to_device(have.device()).and_then(|t| have.set(&t)).map_err(Error::from)?;
        }
        self.updates = updates;
        Ok(())
    }

    /// Runs `f` with the averaged weights in the store, then puts the present weights back.
    ///
    /// # Errors
    /// The errors of `f`, and of the store.
    pub fn with<R, E: From<Error>>(&self, params: &ParamStore, f: impl FnOnce() -> Result<R, E>) -> Result<R, E> {
        let kept = self.swap(params, &self.state()).map_err(E::from)?;
        let result = f();
        self.swap(params, &kept).map_err(E::from)?;
        result
    }

    /// Overwrites parameters and returns their values from before.
    fn swap(&self, params: &ParamStore, values: &[(String, Tensor)]) -> Result<Vec<(String, Tensor)>> {
        let mut kept = vec![];
        for (name, now) in params.values() {
            if let Some((_, new)) = values.iter().find(|(n, _)| *n == name) {
                kept.push((name.clone(), now.copy()?));
                params.set(&name, new)?;
            }
        }
        Ok(kept)
    }
}

/// Whether a tensor counts: it is copied, not averaged.
fn is_counter(name: &str) -> bool {
    name.ends_with("num_batches_tracked")
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use candlelight_autograd::Key;

    fn store(v: f32) -> ParamStore {
        let params = ParamStore::new();
        params.builder(Key::new(0)).get_with_hints(2, "w", candle_nn::Init::Const(f64::from(v))).unwrap();
        params
    }

    fn value(t: &Tensor) -> f32 {
        t.to_vec1::<f32>().unwrap()[0]
    }

    #[test]
    fn the_average_follows_timms_decay() {
        let params = store(1.0);
        let mut ema = Ema::new(&params, 0.9998, true).unwrap();
        assert!((ema.decay_at(11) - 0.798).abs() < 1e-3 && (ema.decay_at(1001) - 0.990).abs() < 1e-3);
        let mut want = 0.0f64;
        for s in 1..6 {
            let p = s as f64;
            params.set("w", &Tensor::full(p as f32, 2, &Device::Cpu).unwrap()).unwrap();
            ema.update(&params).unwrap();
            let d = ema.decay_at(s);
            want = d * want + (1.0 - d) * p;
            assert!((f64::from(value(&ema.state()[0].1)) - want).abs() < 1e-5);
        }
        assert_eq!(Ema::new(&params, 0.9, false).unwrap().decay_at(2), 0.9);
        assert!(Ema::new(&params, 1.0, false).is_err());
        // YOLOv5's, whose first update is an average too.
        let yolo = EmaConfig { decay: 0.9999, warmup: false, tau: Some(2000.0) };
        let ema = Ema::of(&params, yolo).unwrap();
        assert!((ema.decay_at(1) - 4.998_25e-4).abs() < 1e-8 && (ema.decay_at(2000) - 0.632_057).abs() < 1e-6);
        assert!(Ema::of(&params, EmaConfig { tau: Some(0.0), ..yolo }).unwrap_err().to_string().contains("tau of 0"));
    }

    #[test]
    fn the_weights_are_back_after_an_evaluation_and_state_is_kept() {
        let params = store(1.0);
        let mut ema = Ema::new(&params, 0.5, false).unwrap();
        ema.update(&params).unwrap();
        params.set("w", &Tensor::full(3f32, 2, &Device::Cpu).unwrap()).unwrap();
        ema.update(&params).unwrap();
        let seen = ema.with(&params, || Ok::<f32, Error>(value(params.var("w")?.as_tensor()))).unwrap();
        assert_eq!((seen, value(params.var("w").unwrap().as_tensor())), (2.0, 3.0));
        let saved: HashMap<String, Tensor> = ema.state().into_iter().map(|(n, t)| (n, t.copy().unwrap())).collect();
        let mut again = Ema::new(&params, 0.5, false).unwrap();
        again.load_state(&saved, 2).unwrap();
        assert_eq!(value(&again.state()[0].1), 2.0);
        assert!(again.load_state(&HashMap::new(), 2).unwrap_err().to_string().contains("ema.w is missing"));
    }
}
