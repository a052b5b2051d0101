//! The parts of a model that pruning can remove, and what removing them changes.

use super::channels::{Channels, Padding, Product};
use crate::error::{Error, Result};
use candle_core::{Device, Tensor};
use candlelight_autograd::spec::Origin;
use candlelight_autograd::{ParamStore, Trace, Traced};
use std::collections::{BTreeMap, HashMap};

/// A dimension of a parameter or a running statistic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The name of the parameter or the statistic.
    pub name: String,
    /// The dimension.
    pub axis: usize,
}

/// Channels that can be removed one by one: the filters of a convolution, the channels of a residual stream, the heads of an attention. One
/// channel holds entries of many parameters, all of which go with it.
#[derive(Debug, Clone)]
pub struct Group {
    /// The layer whose results the channels are, such as `layer1.0.conv1`; of a stream the first.
    pub name: String,
    /// The dimensions that hold the channels.
    pub members: Vec<Member>,
    /// Per channel and member, the entries of the dimension.
    pub(crate) entries: Vec<Vec<Vec<usize>>>,
}

impl Group {
    /// Number of channels.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no channels; never true.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries of a member that belong to a channel.
    pub fn entries(&self, channel: usize, member: usize) -> &[usize] {
        &self.entries[channel][member]
    }

    /// Whether a parameter's dimension is among the members.
    pub fn holds(&self, name: &str, axis: usize) -> bool {
        self.members.iter().any(|m| m.name == name && m.axis == axis)
    }
}

/// A result of the forward pass that shows a group's channels as they are used: behind an activation, and behind the max pool that follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The layer whose activation is seen, such as `layer1.0.bn2`.
    pub name: String,
    /// The number of the operation.
    pub call: usize,
    /// The group.
    pub group: usize,
    /// Per entry of the last dimension the channel of the group that it belongs to.
    pub channels: Vec<Option<usize>>,
}

/// For each group the channels that stay, in ascending order.
pub type Keep = Vec<Vec<usize>>;

/// How a model's channels hang together, found by following them through a forward pass.
#[derive(Debug)]
pub struct Structure {
    groups: Vec<Group>,
    sites: Vec<Site>,
    /// Per root of `owners` its group and channel.
    owners: HashMap<usize, (usize, usize)>,
    /// Per dimension of a parameter that holds channels the roots of its entries.
    axes: Vec<(Member, Vec<usize>)>,
    products: Vec<Product>,
    paddings: Vec<Padding>,
    /// Names and dimensions of all parameters and statistics.
    dims: Vec<(String, Vec<usize>)>,
    parameters: usize,
}

impl Structure {
    /// Follows the channels of a model with parameters `params` through the trace of its forward pass in evaluation.
    pub fn of(trace: &Trace, params: &ParamStore) -> Self {
        let names = trace.names(params);
        let mut found = Channels::of(trace, &names);
        let rooted = |all: &Channels<'_>, ids: &mut Vec<usize>| ids.iter_mut().for_each(|id| *id = all.root(*id));
        let mut products = std::mem::take(&mut found.products);
        products.iter_mut().flat_map(|p| [&mut p.outputs, &mut p.inputs]).for_each(|ids| rooted(&found, ids));
        let mut paddings = std::mem::take(&mut found.paddings);
        paddings.iter_mut().flat_map(|p| [&mut p.to, &mut p.inputs]).for_each(|ids| rooted(&found, ids));
        let axes: Vec<(Member, Vec<usize>)> = found
            .axes
            .iter()
            .map(|a| (Member { name: a.name.clone(), axis: a.axis }, a.ids.iter().map(|id| found.root(*id)).collect()))
            .collect();
        let (groups, owners) = grouped(&axes, |root| found.is_fixed(root));
        let sites = sites(trace, &found, &owners, &names);
        let dims = params.values().into_iter().map(|(n, t)| (n, t.dims().to_vec())).collect();
        Structure { groups, sites, owners, axes, products, paddings, dims, parameters: params.count().0 }
    }

    /// The groups, in the order of the forward pass.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Where the groups' channels can be seen.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// Whether the model has a parameter or a statistic of this name.
    pub fn has(&self, name: &str) -> bool {
        self.dims.iter().any(|(n, _)| n == name)
    }

    /// The group whose channels are the entries of a parameter's dimension.
    pub fn group_of(&self, name: &str, axis: usize) -> Option<usize> {
        self.groups.iter().position(|g| g.holds(name, axis))
    }

    /// Every channel.
    pub fn all(&self) -> Keep {
        self.groups.iter().map(|g| (0..g.len()).collect()).collect()
    }

    /// Checks that there is a list per group, of channels that are there, in ascending order, and none of them empty.
    ///
    /// # Errors
    /// When it is not so; the error names the group.
    pub fn check(&self, keep: &Keep) -> Result<()> {
        if keep.len() != self.groups.len() {
            return Err(Error::Config(format!(
                "channels to keep for {} groups, the model has {}",
                keep.len(),
                self.groups.len()
            )));
        }
        for (group, keep) in self.groups.iter().zip(keep) {
            let (name, have) = (&group.name, group.len());
            if keep.is_empty() {
                return Err(Error::Config(format!(
                    "{name}: none of its {have} channels would stay; keep at least one"
                )));
            }
            if keep.windows(2).any(|w| w[0] >= w[1]) || keep.last().is_some_and(|c| *c >= have) {
                return Err(Error::Config(format!(
                    "{name}: channels to keep {keep:?}, expected ascending numbers below {have}"
                )));
            }
        }
        Ok(())
    }

    fn stays(&self, keep: &Keep) -> impl Fn(&usize) -> bool {
        let sets: Vec<Vec<bool>> = self
            .groups
            .iter()
            .zip(keep)
            .map(|(g, keep)| {
                let mut on = vec![false; g.len()];
                keep.iter().for_each(|c| on[*c] = true);
                on
            })
            .collect();
        let owners = self.owners.clone();
        move |root: &usize| owners.get(root).is_none_or(|(group, channel)| sets[*group][*channel])
    }

    /// The multiply-adds of the products of a forward pass with the channels that stay; see [`Convention::Exact`](crate::cost::Convention).
    pub fn macs(&self, keep: &Keep) -> u64 {
        let stays = self.stays(keep);
        let count = |ids: &[usize]| if ids.is_empty() { 1 } else { ids.iter().filter(|r| stays(r)).count() as u64 };
        self.products.iter().map(|p| p.factor * count(&p.outputs) * count(&p.inputs)).sum()
    }

    /// The number of parameters with the channels that stay.
    pub fn parameters(&self, keep: &Keep) -> usize {
        let stays = self.stays(keep);
        let mut gone = 0;
        for (name, dims) in &self.dims {
            let last = name.rsplit('.').next().unwrap_or(name);
            if candlelight_autograd::STATISTICS.contains(&last) {
                continue;
            }
            let mut left = dims.clone();
            for (member, ids) in self.axes.iter().filter(|(m, _)| m.name == *name) {
                left[member.axis] = ids.iter().filter(|r| stays(r)).count();
            }
            gone += dims.iter().product::<usize>() - left.iter().product::<usize>();
        }
        self.parameters - gone
    }

    /// The tensors of a state dict with the channels that stay; others are left as they are.
    ///
    /// # Errors
    /// When a tensor has other dimensions than the model, or channels to keep do not fit.
    pub fn cut(&self, tensors: &[(String, Tensor)], keep: &Keep) -> Result<Vec<(String, Tensor)>> {
        self.check(keep)?;
        let stays = self.stays(keep);
        let mut out = vec![];
        for (name, tensor) in tensors {
            let mut tensor = tensor.clone();
            for (member, ids) in self.axes.iter().filter(|(m, _)| m.name == *name) {
                if tensor.dims().get(member.axis) != Some(&ids.len()) {
                    return Err(Error::Mismatch(format!(
                        "{name} is {:?}, the model has {} entries in dimension {}",
                        tensor.dims(),
                        ids.len(),
                        member.axis
                    )));
                }
                let kept: Vec<u32> = (0..ids.len()).filter(|i| stays(&ids[*i])).map(|i| i as u32).collect();
                if kept.len() < ids.len() {
                    let kept = Tensor::new(kept, &Device::Cpu)?.to_device(tensor.device())?;
                    tensor = tensor.index_select(&kept, member.axis)?;
                }
            }
            out.push((name.clone(), tensor));
        }
        Ok(out)
    }

    /// What becomes of the places where the model puts zeros beside channels, in the order of the forward pass: for each channel of the pruned
    /// result the channel of the pruned input, or `None` where there are zeros.
    pub fn paddings(&self, keep: &Keep) -> Vec<Vec<Option<usize>>> {
        let stays = self.stays(keep);
        let placed = |p: &Padding| {
            let mut place = 0;
            let next = |root: &usize| {
                let here = stays(root).then_some(place);
                place += usize::from(here.is_some());
                here
            };
            let inputs: Vec<Option<usize>> = p.inputs.iter().map(next).collect();
            let left = p.to.iter().zip(&p.from).filter(|(root, _)| stays(root));
            left.map(|(_, from)| from.and_then(|i| inputs[i])).collect()
        };
        self.paddings.iter().map(placed).collect()
    }
}

type Owners = HashMap<usize, (usize, usize)>;

/// A channel's root, and its entries per member.
type Channel = (usize, Vec<Vec<usize>>);

/// Channels that are held by the same dimensions, as groups in the order of the first of these.
fn grouped(axes: &[(Member, Vec<usize>)], fixed: impl Fn(usize) -> bool) -> (Vec<Group>, Owners) {
    // Per channel the entries of each dimension; the map is ordered by the dimensions, which come in the order of the forward pass.
    let mut channels: BTreeMap<usize, BTreeMap<usize, Vec<usize>>> = BTreeMap::new();
    for (at, (_, ids)) in axes.iter().enumerate() {
        for (entry, root) in ids.iter().enumerate().filter(|(_, root)| !fixed(**root)) {
            channels.entry(*root).or_default().entry(at).or_default().push(entry);
        }
    }
    let mut by_members: BTreeMap<Vec<usize>, Vec<Channel>> = BTreeMap::new();
    for (root, entries) in channels {
        let (members, entries): (Vec<usize>, Vec<Vec<usize>>) = entries.into_iter().unzip();
        by_members.entry(members).or_default().push((root, entries));
    }
    let (mut groups, mut owners) = (vec![], Owners::new());
    for (members, mut channels) in by_members {
        // In the order of their entries, which is that of a layer's filters.
        channels.sort_by(|a, b| a.1.cmp(&b.1));
        let makes = members.iter().map(|m| &axes[*m].0).find(|m| m.axis == 0);
        let first = makes.map_or("", |m| &m.name);
        for (channel, (root, _)) in channels.iter().enumerate() {
            owners.insert(*root, (groups.len(), channel));
        }
        groups.push(Group {
            name: first.rsplit_once('.').map_or(first, |(layer, _)| layer).to_string(),
            members: members.iter().map(|m| axes[*m].0.clone()).collect(),
            entries: channels.into_iter().map(|(_, entries)| entries).collect(),
        });
    }
    (groups, owners)
}

/// Results of activations whose channels belong to groups. Where nothing but a max pool reads one, the pool's result stands for it.
fn sites(trace: &Trace, found: &Channels<'_>, owners: &Owners, names: &HashMap<Origin, String>) -> Vec<Site> {
    // The layer of the nearest parameter on the way back.
    let layer = |mut number: usize| loop {
        let inputs = &trace.calls[number].inputs;
        if let Some(name) = inputs.iter().find_map(|(_, o)| names.get(o)) {
            return name.rsplit_once('.').map_or(name.as_str(), |(layer, _)| layer).to_string();
        }
        match inputs.first() {
            Some((_, Origin::Call(before))) => number = *before,
            _ => return format!("operation {number}"),
        }
    };
    let activates = |call: &Traced| {
        let fused = call.attribute("then").is_some() || call.attribute("gelu").is_some();
        fused || matches!(call.name, "relu" | "leaky_relu" | "gelu" | "silu" | "sigmoid" | "tanh" | "softplus")
    };
    let mut all = vec![];
    for (number, _) in trace.calls.iter().enumerate().filter(|(_, c)| activates(c)) {
        let origin = Origin::Call(number);
        let reads = |c: &Traced| c.inputs.iter().any(|(_, o)| *o == origin);
        let readers: Vec<usize> = (0..trace.calls.len()).filter(|i| reads(&trace.calls[*i])).collect();
        let call = match readers[..] {
            [only] if trace.calls[only].name == "max_pool2d" => only,
            _ => number,
        };
        let owned = |id: &usize| owners.get(&found.root(*id)).copied();
        let channels: Vec<Option<(usize, usize)>> = found.flows[call].ids.iter().map(owned).collect();
        let mut groups: Vec<usize> = channels.iter().flatten().map(|(g, _)| *g).collect();
        groups.sort_unstable();
        groups.dedup();
        all.extend(groups.into_iter().map(|group| {
            let of = |c: &Option<(usize, usize)>| c.filter(|(g, _)| *g == group).map(|(_, channel)| channel);
            Site { name: layer(number), call, group, channels: channels.iter().map(of).collect() }
        }));
    }
    all
}
