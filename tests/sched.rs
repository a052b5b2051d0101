//! Every schedule beside timm's and torch's (`tests/golden/sched.py`).

use candlelight::sched::{Length, PlateauState, Schedule, ScheduleConfig};
use serde_json::Value;
use std::path::Path;

const STEPS: usize = 5;

fn cases() -> serde_json::Map<String, Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sched.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn rates_are_those_of_timm_and_torch() {
    for (name, case) in cases() {
        let schedule: ScheduleConfig = serde_json::from_value(case["config"].clone()).unwrap();
        schedule.check().unwrap();
        let values: Vec<f64> = case["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let per_epoch = if case["updates"] == true { STEPS } else { 1 };
        let epochs = case["epochs"].as_f64().unwrap_or(values.len() as f64);
        let run = Length { epochs, steps: STEPS, samples: 8 };
        let mut memory = PlateauState::default();
        for (i, want) in values.iter().enumerate() {
            if let (Some(metrics), true) = (case["metrics"].as_array(), i > 0) {
                schedule.observe(i, metrics[i - 1].as_f64().unwrap(), &mut memory);
                // What it remembers goes through a checkpoint.
                memory = serde_json::from_str(&serde_json::to_string(&memory).unwrap()).unwrap();
            }
            let (epoch, step) = (i / per_epoch, i % per_epoch);
            // As the trainer computes the time of a step; inside an epoch the rate of a schedule per epoch stays.
            for at in [
                epoch as f64 + step as f64 / STEPS as f64,
                epoch as f64 + if per_epoch == 1 { 0.8 } else { step as f64 / STEPS as f64 },
            ] {
                let got = schedule.rate(at, &run, &memory);
                assert!((got - want).abs() <= 1e-9 + 1e-7 * want, "{name} at {at}: {got}, want {want}");
            }
        }
        if let (ScheduleConfig::Timm(timm), Some(total)) = (&schedule, case["total"].as_u64()) {
            assert_eq!(timm.total_epochs(case["cooldown"].as_u64().unwrap() as usize), total as usize, "{name}");
        }
    }
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let e = |text: &str| match serde_json::from_str::<ScheduleConfig>(text) {
        Ok(s) => s.check().unwrap_err().to_string(),
        Err(e) => e.to_string(),
    };
    for (text, word) in [
        (r#"{"timm":{"lr":-1,"epochs":3,"curve":"constant"}}"#, "lr is -1"),
        (r#"{"timm":{"lr":1,"epochs":0,"curve":"constant"}}"#, "epochs is 0"),
        (r#"{"timm":{"lr":1,"epochs":3,"curve":"constant","cycles":{"limit":0}}}"#, "cycle_limit is 0"),
        (r#"{"timm":{"lr":1,"epochs":3,"curve":"constant","cycles":{"limit":4000000000}}}"#, "at most 10000 cycles"),
        (
            r#"{"timm":{"lr":1,"epochs":3,"curve":{"tanh":{"lb":0,"ub":1}},"cycles":{"mul":100,"limit":9}}}"#,
            "at most 10000000",
        ),
        (r#"{"timm":{"lr":1,"epochs":3,"curve":{"multistep":{"milestones":[3,1],"rate":0.1}}}}"#, "decay_milestones"),
        (r#"{"timm":{"lr":1,"epochs":3,"curve":{"step":{"every":0,"rate":0.1}}}}"#, "decay_epochs is 0"),
        (r#"{"timm":{"lr":1,"epochs":3,"curve":{"wsd":{"decay":5}}}}"#, "decay_epochs is 5"),
        (r#"{"timm":{"lr":1,"epochs":3,"curve":{"wsd":{"rsqrt":true}}}}"#, "lr_stable_timescale"),
        (r#"{"timm":{"lr":1,"epochs":3,"curve":{"tanh":{"lb":1,"ub":0}}}}"#, "lb 1 to ub 0"),
        (
            r#"{"timm":{"lr":1,"epochs":3,"curve":"constant","noise":{"range":[0,null],"limit":0,"std":1,"seed":1}}}"#,
            "lr_noise_pct is 0",
        ),
        (
            r#"{"torch":{"lr":1,"kind":{"OneCycleLR":{"pct_start":1,"div_factor":25,"final_div_factor":2}}}}"#,
            "pct_start is 1",
        ),
        (
            r#"{"torch":{"lr":1,"kind":{"CosineAnnealingWarmRestarts":{"t_0":0,"t_mult":1,"eta_min":0}}}}"#,
            "t_0 is 0, expected at least 1 epoch",
        ),
        (r#"{"timm":{"lr":1,"epochs":3,"curve":{"cosin":{}}}}"#, "unknown variant `cosin`"),
    ] {
        assert!(e(text).contains(word), "{text}: {}", e(text));
    }
}
