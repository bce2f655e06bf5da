//! The command line keeps its contract: formats of lines and objects, golden ids and logits.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops where something is wrong, and tells what it skips"
)]

use std::path::Path;

use serde_json::{Value, json};
use suite::{root, run_with, shared, stdout_of, tiny_gguf, tiny_hf, zonda};

/// Largest difference to the float64 network that float32 arithmetic and keys and values of 16 bits
/// explain on logits of scale 10 (1.3e-3 found).
const LOGIT_TOLERANCE: f64 = 4e-3;

/// The same where weights are packed and activations are rounded to int8 to meet them (0.11 found).
const ROUNDED_LOGIT_TOLERANCE: f64 = 0.4;

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn golden(container: &str) -> Vec<Value> {
    let path = root().join("tests/fixtures/tiny/golden.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    golden[container].as_array().unwrap().clone()
}

/// Largest difference of `zonda logits` to the golden logits of the fixture.
fn logits_error(model: &Path, container: &str, backend: &str) -> f64 {
    let cases = golden(container);
    let input: String = cases
        .iter()
        .map(|case| format!("{}\n", json!({ "id": case["id"], "tokens": case["tokens"] })))
        .collect();
    let output =
        run_with(zonda().args(["logits", "--backend", backend, "--model"]).arg(model), &input);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers = lines(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(answers.len(), cases.len());
    let mut largest = 0.0f64;
    for (case, answer) in cases.iter().zip(&answers) {
        assert_eq!(answer["id"], case["id"]);
        let wanted = case["logits_last"].as_array().unwrap();
        let found = answer["logits_last"].as_array().unwrap();
        assert_eq!(found.len(), wanted.len(), "all of the vocabulary");
        for (found, wanted) in found.iter().zip(wanted) {
            largest = largest.max((found.as_f64().unwrap() - wanted.as_f64().unwrap()).abs());
        }
    }
    largest
}

#[test]
fn logits_of_the_fixture_are_those_of_the_reference_network() {
    for backend in ["flex", "ndarray"] {
        for (model, container, tolerance) in
            [(tiny_hf(), "hf", LOGIT_TOLERANCE), (tiny_gguf(), "gguf", ROUNDED_LOGIT_TOLERANCE)]
        {
            let error = logits_error(&model, container, backend);
            println!("{container} on {backend}: largest difference {error:.1e}");
            assert!(error < tolerance, "{container} on {backend}: {error}");
        }
    }
}

/// The Hugging Face fixture in Mistral's own layout: other names, and the rows of each query and
/// key head dealt out so that rotary pairs are neighbours.
fn mistral_layout(folder: &Path) {
    let config: Value =
        serde_json::from_slice(&std::fs::read(tiny_hf().join("config.json")).unwrap()).unwrap();
    let file = std::fs::read(tiny_hf().join("model.safetensors")).unwrap();
    let header_bytes = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + header_bytes]).unwrap();
    let (mut new_header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, entry) in header.as_object().unwrap() {
        if name == "__metadata__" {
            continue;
        }
        let parts: Vec<&str> = name.split('.').collect();
        let part = parts[parts.len() - 2];
        let (own, heads) = match part {
            "embed_tokens" => ("tok_embeddings", 0),
            "norm" => ("norm", 0),
            "lm_head" => ("output", 0),
            "input_layernorm" => ("attention_norm", 0),
            "post_attention_layernorm" => ("ffn_norm", 0),
            "q_proj" => ("attention.wq", config["num_attention_heads"].as_u64().unwrap()),
            "k_proj" => ("attention.wk", config["num_key_value_heads"].as_u64().unwrap()),
            "v_proj" => ("attention.wv", 0),
            "o_proj" => ("attention.wo", 0),
            "gate_proj" => ("feed_forward.w1", 0),
            "up_proj" => ("feed_forward.w3", 0),
            "down_proj" => ("feed_forward.w2", 0),
            other => panic!("unknown tensor {other}"),
        };
        let layer =
            if parts[1] == "layers" { format!("layers.{}.", parts[2]) } else { String::new() };
        let at = |index: usize| entry["data_offsets"][index].as_u64().unwrap() as usize;
        let bytes = &file[8 + header_bytes..][at(0)..at(1)];
        let begin = data.len();
        if heads == 0 {
            data.extend_from_slice(bytes);
        } else {
            let rows = entry["shape"][0].as_u64().unwrap() as usize;
            let (head_rows, row_bytes) = (rows / heads as usize, bytes.len() / rows);
            for row in 0..rows {
                let (head, within) = (row / head_rows, row % head_rows);
                let from = head * head_rows + within / 2 + (within % 2) * head_rows / 2;
                data.extend_from_slice(&bytes[from * row_bytes..(from + 1) * row_bytes]);
            }
        }
        let mut entry = entry.clone();
        entry["data_offsets"] = json!([begin, data.len()]);
        new_header.insert(format!("{layer}{own}.weight"), entry);
    }
    let head = Value::from(new_header).to_string();
    let whole = [&(head.len() as u64).to_le_bytes(), head.as_bytes(), &data].concat();
    std::fs::write(folder.join("consolidated.safetensors"), whole).unwrap();
    let params = json!({
        "dim": config["hidden_size"], "n_layers": config["num_hidden_layers"],
        "head_dim": config["head_dim"], "hidden_dim": config["intermediate_size"],
        "n_heads": config["num_attention_heads"], "n_kv_heads": config["num_key_value_heads"],
        "norm_eps": config["rms_norm_eps"], "vocab_size": config["vocab_size"],
        "rope_theta": config["rope_theta"],
    });
    std::fs::write(folder.join("params.json"), params.to_string()).unwrap();
    std::fs::copy(tiny_hf().join("tokenizer.model"), folder.join("tokenizer.model.v3")).unwrap();
}

#[test]
fn mistrals_own_layout_gives_the_same_logits() {
    let folder = tempfile::tempdir().unwrap();
    mistral_layout(folder.path());
    let error = logits_error(folder.path(), "hf", "flex");
    println!("consolidated on flex: largest difference {error:.1e}");
    assert!(error < LOGIT_TOLERANCE, "{error}");
    let facts = stdout_of(zonda().args(["model", "inspect", "--json"]).arg(folder.path()));
    let facts: Value = serde_json::from_str(&facts).unwrap();
    assert_eq!(facts["container"], "mistral");
}

#[test]
fn greedy_answers_of_the_fixture_are_the_golden_ones() {
    for (model, container) in [(tiny_hf(), "hf"), (tiny_gguf(), "gguf")] {
        for case in golden(container) {
            if !case["tools"].is_null() {
                continue;
            }
            let ask = case["ask"].as_str().unwrap();
            let answer = stdout_of(
                zonda().args(["run", "--temperature", "0", "--prompt", ask, "--model"]).arg(&model),
            );
            assert_eq!(answer.trim_end(), case["text"].as_str().unwrap(), "{container}: {ask}");
        }
    }
}

#[test]
fn prompts_of_the_fixture_have_the_golden_tokens() {
    let input: String = golden("hf")
        .iter()
        .map(|case| {
            let messages = json!([{ "role": "user", "content": case["ask"] }]);
            let mut line = json!({ "id": case["id"], "kind": "chat", "messages": messages });
            if !case["tools"].is_null() {
                line["tools"] = case["tools"].clone();
            }
            format!("{line}\n")
        })
        .collect();
    for tokenizer in [tiny_hf().join("tokenizer.model"), tiny_gguf()] {
        let output = run_with(
            zonda().args(["encode", "--version", "v3", "--tokenizer"]).arg(&tokenizer),
            &input,
        );
        let answers = lines(&String::from_utf8(output.stdout).unwrap());
        for (answer, case) in answers.iter().zip(golden("hf")) {
            assert_eq!(answer["tokens"], case["tokens"], "{}: {answer}", tokenizer.display());
        }
        assert_eq!(answers.len(), 5);
    }
}

#[test]
fn run_prints_the_completion_object_when_asked() {
    let output = stdout_of(
        zonda()
            .args(["run", "--json", "--temperature", "0", "--prompt", "Who are you?", "--model"])
            .arg(tiny_gguf()),
    );
    let answer: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "tiny");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let usage = &answer["usage"];
    let count = |key: &str| usage[key].as_u64().unwrap();
    assert_eq!(count("total_tokens"), count("prompt_tokens") + count("completion_tokens"));
}

#[test]
fn run_reads_a_request_from_a_file_or_standard_input() {
    let request = json!({
        "model": "default", "temperature": 0,
        "messages": [{ "role": "user", "content": "Close the pantry window." }],
    });
    let output = run_with(
        zonda().args(["run", "--request", "-", "--model"]).arg(tiny_gguf()),
        &request.to_string(),
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), "The pantry window is closed.\n");
}

#[test]
fn a_seed_gives_the_same_draw_again() {
    let draw = |seed: &str| {
        stdout_of(
            zonda()
                .args([
                    "run",
                    "--raw",
                    "--prompt",
                    "The",
                    "--temperature",
                    "2",
                    "--max-tokens",
                    "24",
                ])
                .args(["--seed", seed, "--model"])
                .arg(tiny_gguf()),
        )
    };
    assert_eq!(draw("7"), draw("7"));
    assert_ne!(draw("7"), draw("8"));
}

#[test]
fn bench_reports_rates_memory_and_bandwidth() {
    let output = stdout_of(
        zonda()
            .args(["bench", "-p", "64", "-n", "8", "-r", "3", "--json", "--model"])
            .arg(tiny_gguf()),
    );
    let report: Value = serde_json::from_str(&output).unwrap();
    let names: Vec<&str> = report["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["pp64", "tg8"]);
    for row in report["rows"].as_array().unwrap() {
        let rate = |key: &str| row["tokens_per_s"][key].as_f64().unwrap();
        assert!(
            0.0 < rate("min") && rate("min") <= rate("median") && rate("median") <= rate("max")
        );
    }
    assert!(report["rows"][1]["bandwidth_share"].as_f64().unwrap() > 0.0);
    assert!(report["peak_resident_bytes"].as_u64().unwrap() > 1 << 20);
    assert!(report["load_s"].as_f64().unwrap() >= 0.0);
}

#[test]
fn inspect_states_what_the_file_states() {
    let output = stdout_of(zonda().args(["model", "inspect", "--json"]).arg(tiny_gguf()));
    let facts: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(facts["container"], "gguf");
    assert_eq!(facts["parameters"], 229_824);
    assert_eq!(facts["head_dim"], 24);
    assert_eq!(facts["rope_pairing"], "adjacent");
    assert_eq!(facts["tokenizer"]["encoding"], "v3");
}

/// Runs golden lines of one file through `zonda encode`; gives lines and mismatches.
fn golden_file(shared: &Path, part: &str, version: &str, tokenizer: &str) -> (usize, Vec<String>) {
    let path = shared.join(format!("data/golden/{part}.{version}.jsonl"));
    let cases = lines(&std::fs::read_to_string(path).unwrap());
    let input: String = cases
        .iter()
        .map(|case| {
            let mut case = case.clone();
            case.as_object_mut().unwrap().remove("expect");
            format!("{case}\n")
        })
        .collect();
    let output = run_with(
        zonda()
            .args(["encode", "--version", version, "--tokenizer"])
            .arg(shared.join("data/tokenizers").join(tokenizer)),
        &input,
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers = lines(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(answers.len(), cases.len());
    let wrong = cases
        .iter()
        .zip(&answers)
        .filter(|(case, answer)| {
            let expect = &case["expect"];
            if expect["oracle_crash"] == true {
                return false;
            }
            !match (expect["error"].is_string(), case["kind"].as_str()) {
                (true, _) => answer["error"].is_string(),
                (false, Some("decode")) => {
                    answer["text"] == expect["text_ignore"] && answer["stream"] == expect["stream"]
                }
                (false, _) => answer["tokens"] == expect["tokens"],
            }
        })
        .map(|(case, answer)| format!("{part}.{version} {}: {answer}", case["id"]))
        .collect();
    (cases.len(), wrong)
}

#[test]
fn every_golden_prompt_has_the_oracles_tokens_or_is_refused_as_by_the_oracle() {
    let Some(shared) = shared() else {
        println!("skipped: no shared data");
        return;
    };
    let versions = [
        ("v1", "tokenizer.model.v1"),
        ("v2", "mistral_instruct_tokenizer_240216.model.v2"),
        ("v3", "mistral_instruct_tokenizer_240323.model.v3"),
        ("v3-tekken", "tekken_240718.json"),
        ("v7", "mistral_instruct_tokenizer_241114.model.v7"),
    ];
    let (mut total, mut wrong) = (0, Vec::new());
    for (version, tokenizer) in versions {
        for part in ["chat", "tools", "fim", "raw"] {
            let (count, mismatches) = golden_file(&shared, part, version, tokenizer);
            total += count;
            wrong.extend(mismatches);
        }
    }
    println!("{total} golden lines, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{:#?}", &wrong[..wrong.len().min(10)]);
}
