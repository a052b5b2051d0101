//! Average ranks of feature maps: M. Lin et al., "HRank", arXiv 2002.10179.

use super::{Keep, Limits, Scores, Site, Structure};
use crate::error::{Error, Result};
use crate::weights::write_safetensors;
use candle_core::{DType, Device, Tensor};
use candlelight_autograd::spec::Call;
use candlelight_autograd::{Tape, Value};
use candlelight_kernels::rank::feature_map_ranks;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::rc::Rc;

/// The average rank of each channel's feature map at one place of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteRanks {
    /// The place, such as `layer1.0.bn2`: the layer whose activation is seen.
    pub name: String,
    /// The number of the operation.
    call: usize,
    /// Sums over the images.
    sums: Vec<f64>,
    /// HRank's ResNets with projections write the last place of such a block twice: for the projection, and for the last convolution.
    doubled: bool,
}

/// Average ranks at all places of a model where channels are seen, collected over batches of images.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranks {
    /// The places, in the order of the forward pass.
    pub sites: Vec<SiteRanks>,
    /// The number of images.
    pub images: u64,
}

impl Ranks {
    /// Nothing yet, for a model of this structure.
    pub fn new(structure: &Structure) -> Self {
        let block = |name: &str| name.rsplit_once('.').map_or(String::new(), |(b, _)| b.to_string());
        let mut sites: Vec<SiteRanks> = vec![];
        for site in structure.sites() {
            if sites.iter().all(|s| s.call != site.call) {
                let (name, sums) = (site.name.clone(), vec![0.0; site.channels.len()]);
                sites.push(SiteRanks { name, call: site.call, sums, doubled: false });
            }
        }
        for i in 0..sites.len() {
            let own = block(&sites[i].name);
            let last = sites.get(i + 1).is_none_or(|next| block(&next.name) != own);
            sites[i].doubled = last && structure.has(&format!("{own}.downsample.0.weight"));
        }
        Ranks { sites, images: 0 }
    }

    /// Adds the ranks of a batch of `images` images, of which `forward` is the pass in evaluation.
    ///
    /// # Errors
    /// The errors of the pass, and when a place does not hold images.
    pub fn add(&mut self, images: usize, forward: impl FnOnce(&Tape) -> Result<Value>) -> Result<()> {
        let places: HashMap<usize, usize> = self.sites.iter().enumerate().map(|(i, s)| (s.call, i)).collect();
        let sums = Rc::new(RefCell::new(vec![vec![]; self.sites.len()]));
        let failed = Rc::new(RefCell::new(None));
        let (seen, error) = (sums.clone(), failed.clone());
        let tape = Tape::off().with_observer(move |call| {
            let Some(place) = places.get(&call.number) else { return };
            match ranks(call) {
                Ok(found) => seen.borrow_mut()[*place] = found,
                Err(e) => _ = error.borrow_mut().get_or_insert(e),
            }
        });
        forward(&tape)?;
        if let Some(e) = failed.take() {
            return Err(e);
        }
        for (site, sums) in self.sites.iter_mut().zip(sums.take()) {
            if sums.len() != site.sums.len() {
                return Err(Error::Mismatch(format!(
                    "{}: {} channels, expected {}: ranks of another model",
                    site.name,
                    sums.len(),
                    site.sums.len()
                )));
            }
            site.sums.iter_mut().zip(sums).for_each(|(a, b)| *a += b);
        }
        self.images += images as u64;
        Ok(())
    }

    /// The average ranks at a place.
    pub fn averages(&self, site: usize) -> Vec<f64> {
        let n = self.images.max(1) as f64;
        self.sites[site].sums.iter().map(|s| s / n).collect()
    }

    /// The importance of each channel: the average rank over the places where it is seen.
    ///
    /// # Errors
    /// When the ranks are of another model, or a group that may be pruned is seen nowhere.
    pub fn scores(&self, structure: &Structure, limits: &Limits) -> Result<Scores> {
        let mut all = vec![];
        for (at, group) in structure.groups().iter().enumerate() {
            let (mut sums, mut counts) = (vec![0.0; group.len()], vec![0u32; group.len()]);
            for site in structure.sites().iter().filter(|s| s.group == at) {
                let Some(place) = self.sites.iter().position(|s| s.call == site.call) else { continue };
                self.fits(site, place)?;
                for (rank, channel) in self.averages(place).iter().zip(&site.channels) {
                    if let Some(channel) = channel {
                        sums[*channel] += rank;
                        counts[*channel] += 1;
                    }
                }
            }
            if counts.contains(&0) && !limits.ignores(&group.name) {
                return Err(Error::Config(format!(
                    "{}: its channels are not seen as images behind an activation, so they have no rank; choose another importance, or \
                     leave the group whole",
                    group.name
                )));
            }
            all.push(sums.iter().zip(&counts).map(|(s, n)| s / f64::from((*n).max(1))).collect());
        }
        Ok(all)
    }

    fn fits(&self, site: &Site, place: usize) -> Result<()> {
        let found = &self.sites[place];
        if found.name == site.name && found.sums.len() == site.channels.len() {
            return Ok(());
        }
        Err(Error::Mismatch(format!(
            "ranks of another model: {} with {} channels, expected {} with {}",
            found.name,
            found.sums.len(),
            site.name,
            site.channels.len()
        )))
    }

    /// Writes the averages as one safetensors file, with the number of images.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut tensors = vec![];
        for (i, site) in self.sites.iter().enumerate() {
            tensors.push((site.name.clone(), self.tensor(i)?));
        }
        let images = BTreeMap::from([("images".to_string(), self.images.to_string())]);
        write_safetensors(path, &tensors, Some(images))
    }

    /// Writes the averages as HRank does: `rank_conv1.npy` and so on, f32, one file per convolution.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save_npy(&self, folder: &Path) -> Result<()> {
        let fail = |path: &Path, e: String| Error::File { path: path.into(), message: e };
        std::fs::create_dir_all(folder).map_err(|e| fail(folder, e.to_string()))?;
        for (number, site) in self.files().into_iter().enumerate() {
            let path = folder.join(format!("rank_conv{}.npy", number + 1));
            self.tensor(site)?.write_npy(&path).map_err(|e| fail(&path, e.to_string()))?;
        }
        Ok(())
    }

    /// Reads ranks of a model of this structure: our safetensors file, or a folder of HRank's `rank_conv1.npy` and so on.
    ///
    /// # Errors
    /// When they cannot be read, or are those of another model.
    pub fn read(path: &Path, structure: &Structure) -> Result<Self> {
        let mut ranks = Ranks::new(structure);
        let fail = |path: &Path, message: String| Error::File { path: path.into(), message };
        // The averages are kept as they are: sums over one image.
        ranks.images = 1;
        if path.is_dir() {
            let files = ranks.files();
            let extra = path.join(format!("rank_conv{}.npy", files.len() + 1));
            if extra.exists() {
                return Err(fail(&extra, format!("ranks of another model: this one has {} files", files.len())));
            }
            for (number, site) in files.into_iter().enumerate() {
                let path = path.join(format!("rank_conv{}.npy", number + 1));
                let tensor = Tensor::read_npy(&path).map_err(|e| fail(&path, e.to_string()))?;
                ranks.sites[site].fill(&tensor).map_err(|e| fail(&path, e))?;
            }
            return Ok(ranks);
        }
        let tensors = candle_core::safetensors::load(path, &Device::Cpu).map_err(|e| fail(path, e.to_string()))?;
        if tensors.len() != ranks.sites.len() {
            let (found, expected) = (tensors.len(), ranks.sites.len());
            return Err(fail(path, format!("ranks of another model: {found} places, expected {expected}")));
        }
        for site in &mut ranks.sites {
            let tensor = tensors.get(&site.name);
            let tensor = tensor.ok_or_else(|| fail(path, format!("ranks of another model: no {}", site.name)))?;
            site.fill(tensor).map_err(|e| fail(path, e))?;
        }
        Ok(ranks)
    }

    fn tensor(&self, site: usize) -> Result<Tensor> {
        let values: Vec<f32> = self.averages(site).into_iter().map(|v| v as f32).collect();
        Ok(Tensor::new(values, &Device::Cpu)?)
    }

    /// The place of each of HRank's files.
    pub(super) fn files(&self) -> Vec<usize> {
        let times = |(i, s): (usize, &SiteRanks)| std::iter::repeat_n(i, 1 + usize::from(s.doubled));
        self.sites.iter().enumerate().flat_map(times).collect()
    }
}

#[cfg(test)]
impl SiteRanks {
    /// Number of channels.
    pub(super) fn len(&self) -> usize {
        self.sums.len()
    }

    /// Other averages.
    pub(super) fn set(&mut self, averages: Vec<f32>) {
        self.sums = averages.into_iter().map(f64::from).collect();
    }
}

impl SiteRanks {
    fn fill(&mut self, tensor: &Tensor) -> std::result::Result<(), String> {
        let values = tensor.to_dtype(DType::F64).and_then(|t| t.flatten_all()?.to_vec1::<f64>());
        let values = values.map_err(|e| e.to_string())?;
        if tensor.rank() != 1 || values.len() != self.sums.len() {
            let (found, expected) = (tensor.dims(), self.sums.len());
            return Err(format!("ranks of another model: {} is {found:?}, expected ({expected})", self.name));
        }
        if let Some(bad) = values.iter().find(|v| !(v.is_finite() && **v >= 0.0)) {
            return Err(format!("{}: an average rank of {bad}", self.name));
        }
        self.sums = values;
        Ok(())
    }
}

/// The sums over a batch of the ranks of each channel's maps.
fn ranks(call: &Call<'_>) -> Result<Vec<f64>> {
    let &[b, h, w, c] = call.result else {
        return Err(Error::Config(format!("the result {:?} of {} holds no feature maps", call.result, call.op.name())));
    };
    let values = call.tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let ranks = feature_map_ranks(&values, [b, h, w, c]).map_err(candlelight_autograd::Error::from)?;
    let mut sums = vec![0.0; c];
    for image in ranks.chunks_exact(c.max(1)) {
        sums.iter_mut().zip(image).for_each(|(s, r)| *s += f64::from(*r));
    }
    Ok(sums)
}

/// Notices when further images no longer change which channels stay.
#[derive(Debug, Clone, Default)]
pub struct Steady {
    last: Keep,
    same: usize,
}

impl Steady {
    /// After another batch: how many times in a row the choice was the same as the one before.
    pub fn add(&mut self, keep: Keep) -> usize {
        self.same = if self.last == keep { self.same + 1 } else { 0 };
        self.last = keep;
        self.same
    }
}
