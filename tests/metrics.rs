//! Every figure of candlelight-metrics beside scikit-learn, torchmetrics and scipy on a thousand random cases (tests/golden/metrics.py).

mod goldens;

use candlelight::metrics::stats::{RunStats, paired_t, wilcoxon};
use candlelight::metrics::{
    Absent, Average, Calibration, Confusion, MultiLabel, Ranking, Temperature, TopK, Vote, softmax, vote,
};
use goldens::golden;
use std::collections::BTreeMap;

/// splitmix64, as in metrics.py.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn share(&mut self) -> f64 {
        (self.next() >> 40) as f64 / f64::from(1 << 24)
    }
}

struct Case {
    k: usize,
    ties: bool,
    labels: Vec<u32>,
    scores: Vec<f32>,
    targets: Vec<bool>,
    a: Vec<f64>,
    b: Vec<f64>,
}

impl Case {
    fn new(seed: u64) -> Case {
        let mut r = Random(seed);
        let k = 2 + r.below(5) as usize;
        let n = 4 + r.below(40) as usize;
        let ties = r.below(3) == 0;
        let absent = r.below(3) == 0;
        let classes = if absent && k > 2 { k - 1 } else { k };
        let labels: Vec<u32> = (0..n).map(|_| r.below(classes as u64) as u32).collect();
        let mut scores = vec![];
        for label in &labels {
            for i in 0..k {
                let s = r.share() + if i == *label as usize { 0.25 } else { 0.0 };
                scores.push(if ties { (s * 4.0).floor() / 4.0 } else { s } as f32);
            }
        }
        let targets = (0..n * k).map(|_| r.below(3) == 0).collect();
        let runs = 4 + r.below(9) as usize;
        let tied = r.below(3) == 0;
        let mut values = || (0..runs).map(|_| if tied { r.below(9) as f64 } else { r.share() }).collect();
        Case { k, ties, labels, scores, targets, a: values(), b: values() }
    }

    /// Takes in the samples in batches of seven, each by a process of its own.
    fn in_parts<T>(&self, whole: &mut T, mut add: impl FnMut(&mut T, std::ops::Range<usize>)) {
        let n = self.labels.len();
        for from in (0..n).step_by(7) {
            add(whole, from..(from + 7).min(n));
        }
    }

    fn figures(&self) -> BTreeMap<&'static str, Option<f64>> {
        let k = self.k;
        let rows = |r: &std::ops::Range<usize>| r.start * k..r.end * k;
        let mut counts = Confusion::new(k);
        let mut top = TopK::new(k);
        let mut ranks = Ranking::new(k);
        let mut likely = Ranking::new(k);
        let mut several = Ranking::new(k);
        let mut decided = MultiLabel::new(k, 0.5);
        let mut sure = Calibration::new(k, 15);
        let p = softmax(&self.scores, k, 1.0);
        let single: Vec<f32> = p.iter().map(|p| *p as f32).collect();
        self.in_parts(&mut (), |(), r| {
            let (scores, labels) = (&self.scores[rows(&r)], &self.labels[r.clone()]);
            let mut one = Confusion::new(k);
            one.add_scores(scores, labels).unwrap();
            counts.merge(&one).unwrap();
            let mut one = TopK::new(k);
            one.add(scores, labels).unwrap();
            top.merge(&one).unwrap();
            for (all, scores) in [(&mut ranks, scores), (&mut likely, &single[rows(&r)])] {
                let mut one = Ranking::new(k);
                one.add_labels(scores, labels).unwrap();
                all.merge(&one).unwrap();
            }
            several.add(scores, &self.targets[rows(&r)]).unwrap();
            let mut one = MultiLabel::new(k, 0.5);
            one.add(scores, &self.targets[rows(&r)]).unwrap();
            decided.merge(&one).unwrap();
            let mut one = Calibration::new(k, 15);
            one.add(&p[rows(&r)], labels).unwrap();
            sure.merge(&one).unwrap();
        });
        let (every, zero) = (Absent::Undefined, Absent::Zero);
        let mut out = BTreeMap::new();
        let mut put = |name, value| _ = out.insert(name, value);
        put("accuracy", counts.accuracy());
        put("balanced", counts.balanced_accuracy());
        for (average, names) in [
            (Average::Macro, ["precision_macro", "recall_macro", "f1_macro"]),
            (Average::Weighted, ["precision_weighted", "recall_weighted", "f1_weighted"]),
            (Average::Micro, ["precision_micro", "recall_micro", "f1_micro"]),
        ] {
            put(names[0], counts.precision(average));
            put(names[1], counts.recall(average));
            put(names[2], counts.f1(average));
        }
        put("f2_macro", counts.f_beta(2.0, Average::Macro));
        put("f05_weighted", counts.f_beta(0.5, Average::Weighted));
        put("f1_macro_zero", counts.f1(Average::Macro.with(zero)));
        put("f1_macro_torchmetrics", counts.f1(Average::Macro));
        put("kappa", counts.kappa());
        put("matthews", counts.matthews());
        put("top2", top.share(2).filter(|_| !self.ties));
        put("auroc_macro", ranks.auroc(Average::Macro.with(every)));
        put("auroc_weighted", ranks.auroc(Average::Weighted.with(every)));
        put("auroc_micro", ranks.auroc(Average::Micro));
        put("auroc_torchmetrics", likely.auroc(Average::Macro.with(zero)));
        for (name, average) in [("auroc_pairs", Average::Macro), ("auroc_pairs_weighted", Average::Weighted)] {
            put(name, likely.auroc_pairs(average.with(every)).unwrap().filter(|_| k > 2));
        }
        put("ap_zero", ranks.average_precision(Average::Macro.with(zero)));
        put("ap_micro", ranks.average_precision(Average::Micro));
        put("ap_weighted", ranks.average_precision(Average::Weighted));
        put("many_auroc_macro", several.auroc(Average::Macro.with(every)));
        put("many_auroc_weighted", several.auroc(Average::Weighted.with(every)));
        put("many_ap_macro", several.average_precision(Average::Macro.with(zero)));
        put("many_ap_micro", several.average_precision(Average::Micro));
        put("many_ap_weighted", several.average_precision(Average::Weighted));
        for (average, names) in [
            (Average::Macro, ["many_precision_macro", "many_recall_macro", "many_f1_macro"]),
            (Average::Weighted, ["many_precision_weighted", "many_recall_weighted", "many_f1_weighted"]),
            (Average::Micro, ["many_precision_micro", "many_recall_micro", "many_f1_micro"]),
        ] {
            put(names[0], decided.precision(average.with(zero)));
            put(names[1], decided.recall(average.with(zero)));
            put(names[2], decided.f1(average.with(zero)));
        }
        let of_samples = decided.of_samples().unwrap();
        put("many_precision_samples", Some(of_samples[0]));
        put("many_recall_samples", Some(of_samples[1]));
        put("many_f1_samples", Some(of_samples[2]));
        put("many_f2_macro", decided.f_beta(2.0, Average::Macro.with(zero)));
        put("many_f1_torchmetrics", decided.f1(Average::Macro.with(zero)));
        put("many_exact", decided.exact());
        put("many_hamming", decided.hamming());
        put("many_map_torchmetrics", several.average_precision(Average::Macro.with(zero)));
        put("log_loss", sure.log_loss());
        put("brier", sure.brier());
        put("ece", sure.ece().filter(|_| !self.ties));
        put("rmsce", sure.rms_calibration_error().filter(|_| !self.ties));
        put("mce", sure.max_calibration_error().filter(|_| !self.ties));
        put("temperature_loss", Some(Temperature::fit(&self.scores, k, &self.labels).unwrap().after));
        let s = RunStats::of(&self.a).unwrap();
        put("mean", Some(s.mean));
        put("variance", Some(s.variance));
        put("low", s.interval.map(|i| i.0));
        put("high", s.interval.map(|i| i.1));
        let test = paired_t(&self.a, &self.b).unwrap();
        put("t", test.map(|t| t.statistic));
        put("t_p", test.map(|t| t.p));
        let test = wilcoxon(&self.a, &self.b).unwrap();
        put("w", test.map(|t| t.statistic));
        put("w_p", test.map(|t| t.p));
        out
    }
}

#[test]
fn a_thousand_cases_have_the_figures_of_the_field() {
    let want: BTreeMap<_, _> = golden("metrics").into_iter().collect();
    let names: Vec<&String> = want.keys().collect();
    let cases: Vec<_> = (0..1000).map(|seed| Case::new(seed).figures()).collect();
    assert_eq!(names, cases[0].keys().collect::<Vec<_>>());
    for (name, values) in &want {
        let values: Vec<f64> = values.to_vec1().unwrap();
        // torchmetrics computes in f32, and scipy's search for a minimum ends a little beside it.
        let close = match name.as_str() {
            n if n.contains("torchmetrics") || ["ece", "rmsce", "mce"].contains(&n) => 1e-5,
            "temperature_loss" => 1e-8,
            _ => 1e-9,
        };
        let mut bad = vec![];
        for (seed, want) in values.iter().enumerate() {
            let got = cases[seed][name.as_str()];
            let fits = match got {
                None => want.is_nan(),
                Some(v) => (v - want).abs() <= close * want.abs().max(1.0),
            };
            if !fits {
                bad.push(format!("case {seed}: {got:?}, want {want}"));
            }
        }
        assert!(bad.is_empty(), "{name}: {} of 1000 differ, such as {}", bad.len(), bad[..bad.len().min(4)].join("; "));
    }
}

#[test]
fn ensembles_are_scikit_learns() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ensemble.safetensors");
    let g = candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
    for case in 0..40 {
        let logits = g[&format!("{case}.logits")].clone();
        let (members, n, k) = logits.dims3().unwrap();
        let all: Vec<Vec<f32>> =
            (0..members).map(|m| logits.get(m).unwrap().flatten_all().unwrap().to_vec1().unwrap()).collect();
        let all: Vec<&[f32]> = all.iter().map(Vec::as_slice).collect();
        let weights = g[&format!("{case}.weights")].to_vec1::<f64>().unwrap();
        for (name, how) in [("soft", Vote::Soft), ("hard", Vote::Hard)] {
            let scores = vote(&all, k, Some(&weights), how).unwrap();
            let named = scores.chunks(k).map(|r| (1..k).fold(0, |b, i| if r[i] > r[b] { i } else { b }) as i64);
            let want = g[&format!("{case}.{name}.class")].to_vec1::<i64>().unwrap();
            let wrong = named.zip(&want).filter(|(a, b)| a != *b).count();
            // Means of probabilities may tie but for the last bit.
            assert!(wrong == 0 || (how == Vote::Soft && wrong <= 1), "{case} {name}: {wrong} of {n}");
            if how == Vote::Soft {
                let want = g[&format!("{case}.soft")].flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert!(scores.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{case}");
            }
        }
    }
}
