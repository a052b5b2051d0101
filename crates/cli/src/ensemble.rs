//! Several trained models as one: votes, and means of weights.

use crate::evaluate::{On, Said};
use crate::{Result, say};
use candle_core::{DType, Device, Tensor};
use candlelight_engine::metrics::{Metrics, Scores};
use candlelight_engine::trained::{Trained, TrainedOptions};
use candlelight_metrics::{Vote, disagreement, vote};
use candlelight_models::weights;
use candlelight_store::{CheckpointFolder, locate};
use clap::Parser;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Judge several trained models as one: by votes of their answers, or by means of their weights.
#[derive(Parser)]
#[command(name = "ensemble", version, rename_all = "snake_case")]
pub struct Args {
    #[command(flatten)]
    /// The data, and how it is seen.
    pub on: On,
    /// The members: files of weights or folders of runs, each also as FILE=MODEL where a file does not say which model it holds
    #[arg(long, required_unless_present = "snapshots", num_args = 1.., value_name = "MEMBERS")]
    members: Vec<String>,
    /// The models that this run kept in its folder `history`, as members
    #[arg(long, value_name = "RUN")]
    snapshots: Option<PathBuf>,
    /// Use the moving averages of the weights, where the files also hold them
    #[arg(long, visible_alias = "ema")]
    use_ema: bool,
    /// How members become one, separated by commas: soft (the mean of the probabilities), hard (most votes), logits (their mean); and for members of one architecture soup (the mean of the weights), greedy_soup (of those that help)
    #[arg(long, value_delimiter = ',', default_value = "soft", value_name = "HOW", action = clap::ArgAction::Set, num_args = 1..)]
    how: Vec<How>,
    /// How much each member counts in votes [default: all alike]
    #[arg(long, value_delimiter = ',', value_name = "WEIGHTS", action = clap::ArgAction::Set, num_args = 1..)]
    weights: Option<Vec<f64>>,
    /// The part of the data that greedy_soup chooses by [default: the part that is judged, which flatters it]
    #[arg(long, value_name = "PART")]
    choose_split: Option<String>,
    /// Also write the scores, in percent, and how often members disagree to this JSON file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How members become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// By their answers.
    Vote(Vote),
    /// By the mean of their weights.
    Soup,
    /// By the mean of the weights of those that help, M. Wortsman et al., arXiv 2203.05482.
    GreedySoup,
}

impl std::str::FromStr for How {
    type Err = String;
    fn from_str(s: &str) -> std::result::Result<Self, String> {
        match s {
            "soup" => Ok(How::Soup),
            "greedy_soup" => Ok(How::GreedySoup),
            _ => {
                s.parse().map(How::Vote).map_err(|_| format!("`{s}`: expected soft, hard, logits, soup or greedy_soup"))
            }
        }
    }
}

impl How {
    fn name(self) -> &'static str {
        match self {
            How::Vote(Vote::Soft) => "soft",
            How::Vote(Vote::Hard) => "hard",
            How::Vote(Vote::Logits) => "logits",
            How::Soup => "soup",
            How::GreedySoup => "greedy_soup",
        }
    }
}

/// A model and what it says of the images.
struct Member {
    name: String,
    model: Trained,
    said: Said,
}

/// The scores of a member or of an ensemble.
#[derive(Serialize)]
pub struct Row {
    /// The member's file, or how the ensemble was made.
    pub name: String,
    /// Its scores.
    #[serde(flatten)]
    pub scores: Scores,
}

/// What was found.
#[derive(Serialize)]
pub struct Found {
    /// The members.
    pub members: Vec<Row>,
    /// The ensembles.
    pub ensembles: Vec<Row>,
    /// The share of the images that two members call different classes.
    pub disagreement: Vec<Vec<f64>>,
    /// The members that the greedy soup took, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub chosen: Vec<String>,
}

fn scores(logits: &[f32], labels: &[u32], classes: usize) -> Result<Scores> {
    let mut metrics = Metrics::new(classes);
    metrics.add(logits, labels)?;
    Ok(metrics.scores())
}

impl Args {
    /// The files of the members, each with the name of its model where one is given.
    fn files(&self) -> Result<Vec<(PathBuf, Option<String>)>> {
        let mut all = vec![];
        for member in &self.members {
            let (path, model) = match member.rsplit_once('=') {
                Some((path, model)) if !Path::new(member).exists() => (path, Some(model.to_string())),
                _ => (member.as_str(), None),
            };
            let found = locate(path)?;
            say(found.note.as_slice());
            all.push((found.path, model));
        }
        if let Some(run) = &self.snapshots {
            let kept = CheckpointFolder::new(run).all_ranked();
            if kept.is_empty() {
                return Err(format!(
                    "--snapshots {}: the run kept no models in its folder `history`; train keeps them with --checkpoint_hist",
                    run.display()
                )
                .into());
            }
            all.extend(kept.into_iter().map(|p| (p, None)));
        }
        if all.len() < 2 {
            return Err(format!("{} member: an ensemble needs at least 2", all.len()).into());
        }
        Ok(all)
    }

    fn loaded(&self, path: &Path, model: Option<String>, device: &Device) -> Result<Trained> {
        let options = TrainedOptions {
            model,
            ema: self.use_ema,
            size: self.on.size(),
            positions: self.on.pos_interpolation,
            ..TrainedOptions::default()
        };
        let trained =
            Trained::load(path, &options, device).map_err(|e| e.to_string().replace("(--model)", "(FILE=MODEL)"))?;
        say(&trained.notes);
        Ok(trained)
    }

    /// Loads the members, and judges each and all together.
    ///
    /// # Errors
    /// When a file is none, members have other classes, or weights have no mean.
    pub fn run(&self, device: &Device) -> Result<Found> {
        let mut members: Vec<Member> = vec![];
        for (path, model) in self.files()? {
            let model = self.loaded(&path, model, device)?;
            let said = self.on.said(&model, &self.on.data(&model, false)?)?;
            let name = path.display().to_string();
            if let Some(first) = members.first() {
                let (a, b) = (first.model.config.classes(), model.config.classes());
                if a != b || first.said.labels != said.labels {
                    let why =
                        if a != b { format!("{b} classes, not {a}") } else { "other numbers for the classes".into() };
                    return Err(
                        format!("{name} has {why}: members must name the same classes in the same order").into()
                    );
                }
                if first.said.places != said.places {
                    return Err(format!("{name} could not read the same images as {}", first.name).into());
                }
            }
            members.push(Member { name, model, said });
        }
        let (classes, labels) = (members[0].model.config.classes(), members[0].said.labels.clone());
        let logits: Vec<&[f32]> = members.iter().map(|m| &m.said.logits[..]).collect();
        let row = |name: String, logits: &[f32]| -> Result<Row> {
            Ok(Row { name, scores: scores(logits, &labels, classes)? })
        };
        let mut found = Found {
            members: members.iter().map(|m| row(m.name.clone(), &m.said.logits)).collect::<Result<_>>()?,
            ensembles: vec![],
            disagreement: disagreement(&logits, classes)?,
            chosen: vec![],
        };
        for how in &self.how {
            let said = match how {
                How::Vote(v) => {
                    let all = vote(&logits, classes, self.weights.as_deref(), *v)?;
                    // Probabilities are the softmax of their logarithms.
                    if *v == Vote::Logits { all } else { all.iter().map(|p| p.max(1e-30).ln()).collect() }
                }
                How::Soup => self.soup(&members, &(0..members.len()).collect::<Vec<_>>(), None)?.logits,
                How::GreedySoup => {
                    let (chosen, said) = self.greedy(&members, &found.members)?;
                    found.chosen = chosen.into_iter().map(|i| members[i].name.clone()).collect();
                    said.logits
                }
            };
            found.ensembles.push(row(how.name().into(), &said)?);
        }
        if let Some(path) = &self.json {
            let text = serde_json::to_string_pretty(&found)? + "\n";
            std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(found)
    }

    /// What the mean of some members' weights says of a part of the data, or of the one that is judged.
    fn soup(&self, members: &[Member], of: &[usize], part: Option<&String>) -> Result<Said> {
        let first = &members[of[0]].model;
        let all: Vec<Vec<(String, Tensor)>> = of.iter().map(|i| members[*i].model.params.values()).collect();
        let names = &all[0];
        for (i, theirs) in of.iter().zip(&all) {
            let same = theirs.len() == names.len()
                && theirs.iter().zip(names).all(|(a, b)| a.0 == b.0 && a.1.dims() == b.1.dims());
            if !same {
                let (a, b) = (&members[of[0]].name, &members[*i].name);
                return Err(
                    format!("soup: {a} and {b} are of two architectures: only models of one have a mean").into()
                );
            }
        }
        let mut mean = vec![];
        for (at, (name, t)) in names.iter().enumerate() {
            let mut sum = t.zeros_like()?.to_dtype(DType::F64)?;
            for theirs in &all {
                sum = (sum + theirs[at].1.to_dtype(DType::F64)?)?;
            }
            mean.push((name.clone(), (sum / of.len() as f64)?.to_dtype(DType::F32)?));
        }
        // The first member's model carries the mean, and gets its own weights back.
        let own: Vec<(String, Tensor)> =
            names.iter().map(|(n, t)| Ok((n.clone(), t.copy()?))).collect::<Result<_>>()?;
        weights::load(&first.params, &mean, true)?;
        let mut on = self.on.clone();
        on.split = part.cloned().or(on.split);
        let said = on.data(first, false).and_then(|data| on.said(first, &data));
        weights::load(&first.params, &own, true)?;
        said
    }

    /// The greedy soup: from the best member on, each stays in the mean if that is not worse with it.
    fn greedy(&self, members: &[Member], judged: &[Row]) -> Result<(Vec<usize>, Said)> {
        let classes = members[0].model.config.classes();
        let top1 = |said: &Said| -> Result<f64> { Ok(scores(&said.logits, &said.labels, classes)?.top1) };
        if self.choose_split.is_none() {
            tracing::warn!(
                "greedy_soup chooses by the images that judge it: its score flatters it; give --choose_split"
            );
        }
        let (part, mut alone) = (self.choose_split.as_ref(), vec![]);
        for i in 0..members.len() {
            alone.push(match part {
                None => judged[i].scores.top1,
                part => top1(&self.soup(members, &[i], part)?)?,
            });
        }
        let mut order: Vec<usize> = (0..members.len()).collect();
        order.sort_by(|a, b| alone[*b].total_cmp(&alone[*a]).then(a.cmp(b)));
        let (mut chosen, mut best) = (vec![order[0]], alone[order[0]]);
        for i in &order[1..] {
            let with: Vec<usize> = chosen.iter().copied().chain([*i]).collect();
            let now = top1(&self.soup(members, &with, part)?)?;
            if now >= best {
                (chosen, best) = (with, now);
            }
        }
        let said = self.soup(members, &chosen, None)?;
        Ok((chosen, said))
    }
}
