//! Safetensors files with one thing wrong, and what is said about it.

use crate::forge::*;
use weights::safetensors_contents;

/// The header alone is read; nothing beside the file is needed.
fn says(bytes: &[u8], words: &str) {
    let folder = folder(&[("a.safetensors", bytes)]);
    let said = match safetensors_contents(&folder.path().join("a.safetensors")) {
        Ok(contents) => panic!("read: {contents:?}"),
        Err(error) => error.to_string(),
    };
    assert!(said.contains(words), "expected {words:?} in: {said}");
}

fn reads(bytes: &[u8]) -> usize {
    let folder = folder(&[("a.safetensors", bytes)]);
    safetensors_contents(&folder.path().join("a.safetensors")).unwrap().len()
}

fn line(name: &str, shape: &str, begin: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
}

fn file(lines: &[String], data_bytes: usize) -> Vec<u8> {
    with_header(&format!("{{{}}}", lines.join(",")), &vec![0; data_bytes])
}

#[test]
fn sound_headers_are_read() {
    assert_eq!(reads(&file(&[line("a", "[2]", 0, 8)], 8)), 1);
    assert_eq!(reads(&file(&[line("a", "[]", 0, 4)], 4)), 1);
    assert_eq!(reads(&file(&[line("a", "[0,4]", 0, 0), line("b", "[1]", 0, 4)], 4)), 2);
    assert_eq!(reads(&file(&[line("b", "[1]", 4, 8), line("a", "[1]", 0, 4)], 8)), 2);
    let noted = [r#""__metadata__":{"k":"v"}"#.to_owned(), line("a", "[1]", 0, 4)];
    assert_eq!(reads(&file(&noted, 4)), 1);
    let padded = format!("{{{}}}   ", line("a", "[1]", 0, 4));
    assert_eq!(reads(&with_header(&padded, &[0; 4])), 1);
}

#[test]
fn a_header_length_is_compared_before_it_is_believed() {
    let sound = file(&[line("a", "[1]", 0, 4)], 4);
    let stated = |length: u64| [&length.to_le_bytes()[..], &sound[8..]].concat();
    says(&stated((100 << 20) + 1), "the limit is 104857600");
    says(&stated(u64::MAX), "the limit is 104857600");
    says(&stated(100 << 20), "are left");
    says(&stated(0), "does not begin with {");
    says(&[1, 2, 3], "3 bytes cannot hold");
}

#[test]
fn tensors_must_tile_the_data() {
    says(&file(&[line("a", "[2]", 0, 8), line("b", "[2]", 4, 12)], 12), "overlaps");
    says(&file(&[line("a", "[1]", 0, 4), line("b", "[1]", 8, 12)], 12), "leaves a gap");
    says(&file(&[line("a", "[1]", 4, 8)], 8), "leaves a gap");
    says(&file(&[line("a", "[1]", 0, 4)], 5), "the tensors end at 4, the data at 5 bytes");
    says(&file(&[line("a", "[4]", 0, 16)], 8), "ends at 16 of 8 bytes");
}

#[test]
fn shape_and_offsets_must_agree() {
    says(&file(&[line("a", "[3]", 0, 8)], 8), "is 12 bytes, the offsets are 0 to 8");
    says(&file(&[line("a", "[2]", 8, 0)], 8), "tensor `a`");
    says(&file(&[line("a", "[4294967296,4294967296]", 0, 0)], 0), "too large");
    says(&file(&[line("a", "[4611686018427387904,4,2]", 0, 8)], 8), "too large");
    says(&file(&[line("a", "[-1]", 0, 4)], 4), "the header");
    says(&file(&[line("a", "[1.0]", 0, 4)], 4), "the header");
    says(&file(&[line("a", "[1,1,1,1,1,1,1,1,1]", 0, 4)], 4), "at most 8 dimensions");
}

#[test]
fn names_are_there_once() {
    says(&file(&[line("a", "[1]", 0, 4), line("a", "[1]", 4, 8)], 8), "the name is there twice");
    says(&file(&[line("a", "[0]", 0, 0), line("a", "[0]", 0, 0)], 0), "the name is there twice");
    let noted = r#""__metadata__":{"k":"v","k":"w"}"#.to_owned();
    says(&file(&[noted], 0), "`k` is there twice");
    let noted = r#""__metadata__":{}"#.to_owned();
    says(&file(&[noted.clone(), noted], 0), "duplicate");
}

#[test]
fn names_and_tensors_have_limits() {
    says(&file(&[line(&"x".repeat(257), "[1]", 0, 4)], 4), "the limit is 256");
    let many: Vec<String> =
        (0..65_537).map(|index| line(&index.to_string(), "[0]", 0, 0)).collect();
    says(&file(&many, 0), "at most 65536 tensors");
    assert_eq!(reads(&file(&many[1..], 0)), 65_536);
}

#[test]
fn only_floats_are_read() {
    let eight = r#""a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}"#.to_owned();
    says(&file(&[eight], 1), "dtype \"F8_E4M3\" of tensor `a` is not supported");
}

#[test]
fn a_header_nested_deep_is_refused_without_recursion() {
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(50_000), "]".repeat(50_000));
    says(&with_header(&deep, b""), "the header");
}

#[test]
fn a_lone_file_needs_its_configuration() {
    refused(
        open_bytes("model.safetensors", &safetensors(&tensors(HUGGING_FACE_NAMES))),
        "neither config.json nor params.json lies beside it",
    );
    refused(open_bytes("model.bin", b"PK\x03\x04 and so on"), "does not begin with GGUF");
    refused(open_bytes("model.gguf", b""), "it is empty");
}
