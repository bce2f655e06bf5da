//! The detector of the fixtures, against what onnxruntime says.
#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use std::path::{Path, PathBuf};

use onnx::{Detector, DetectorConfig};
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new("../../tests/fixtures/onnx").join(name)
}

fn refused(name: &str, window: Option<u32>) -> String {
    Detector::open(&DetectorConfig { network: fixture(name), window }).err().unwrap().to_string()
}

#[test]
fn scores_are_those_of_the_reference() {
    let golden: Value =
        serde_json::from_slice(&std::fs::read(fixture("golden.json")).unwrap()).unwrap();
    let config = DetectorConfig { network: fixture("detector.onnx"), window: None };
    let detector = Detector::open(&config).unwrap();
    assert_eq!(detector.window(), 32);
    let cases = golden["windows"].as_array().unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        let window = case["window"].as_array().unwrap().iter();
        let window: Vec<f32> = window.map(|number| number.as_f64().unwrap() as f32).collect();
        let (found, expected) = (detector.score(&window).unwrap(), case["error"].as_f64().unwrap());
        assert!((found - expected).abs() < 1e-5, "{}: {found} {expected}", case["name"]);
    }
    assert!(detector.score(&[0.0; 31]).is_err(), "one number short");
    assert!(detector.score(&[f32::INFINITY; 32]).is_err(), "a score that is no number");
}

#[test]
fn what_is_no_detector_is_refused() {
    assert!(refused("detector.onnx", Some(31)).contains("set window = 32"));
    assert!(refused("embedder.onnx", None).contains("a detector has one input"));
    assert!(refused("texts.txt", None).contains("not a usable ONNX network"));
    assert!(refused("nothing.onnx", None).contains("cannot read"));
}
