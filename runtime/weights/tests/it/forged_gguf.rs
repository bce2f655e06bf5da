//! GGUF files with one thing wrong, and what is said about it.

use crate::forge::*;
use weights::{Container, Encoding, RopePairing, TensorName, TokenKind};

fn says(forged: &Gguf, words: &str) {
    refused(forged.open(), words);
}

#[test]
fn a_sound_file_says_what_was_written() {
    let archive = Gguf::sound().open().unwrap();
    let hyper = archive.hyper();
    assert_eq!(hyper.name.as_deref(), Some("Forged"));
    assert_eq!(hyper.license.as_deref(), Some("apache-2.0"));
    assert_eq!((hyper.vocabulary, hyper.hidden, hyper.layers, hyper.feed_forward), (3, 4, 1, 6));
    assert_eq!((hyper.heads, hyper.kv_heads, hyper.head_dim), (2, 1, 2));
    assert_eq!((hyper.context_tokens_max, hyper.rope_theta), (64, 1e6));
    assert_eq!(hyper.pairing, RopePairing::Adjacent);
    assert!(!hyper.tied_embeddings);
    assert_eq!(archive.container(), Container::Gguf);
    for (position, (name, shape)) in shapes(GGUF_NAMES).into_iter().enumerate() {
        let summary = archive.tensors().into_iter().find(|tensor| tensor.name == name).unwrap();
        assert_eq!(summary.shape, shape);
        assert_eq!(summary.bytes, 4 * shape.iter().product::<usize>() as u64);
        assert_eq!(summary.encoding, Encoding::F32);
        if name == "blk.0.ffn_down.weight" {
            let part = weights::Part::Down;
            let tensor = archive.tensor(TensorName::Block { layer: 0, part }).unwrap();
            assert_eq!(tensor.shape, [4, 6]);
            assert_eq!(tensor.to_f32().unwrap(), vec![value_of(position); 24]);
        }
    }
    let vocabulary = archive.vocabulary().unwrap();
    assert_eq!(vocabulary.tokens, ["<unk>", "<s>", "</s>"]);
    assert_eq!(vocabulary.kinds[1..], [TokenKind::Control; 2]);
    assert_eq!((vocabulary.bos, vocabulary.eos, vocabulary.unknown), (Some(1), Some(2), None));
    assert_eq!((vocabulary.add_bos, vocabulary.add_space_prefix), (Some(true), None));
}

#[test]
fn versions_2_and_3_are_read_and_no_other() {
    for version in [2, 3] {
        assert!(Gguf { version, ..Gguf::sound() }.open().is_ok());
    }
    says(&Gguf { version: 1, ..Gguf::sound() }, "version 1");
    says(&Gguf { version: 3_u32.swap_bytes(), ..Gguf::sound() }, "big-endian");
}

#[test]
fn every_cut_of_a_file_is_refused() {
    let bytes = Gguf::sound().bytes();
    let folder = folder(&[("m.gguf", &bytes)]);
    let path = folder.path().join("m.gguf");
    assert!(weights::open(&path).is_ok());
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    for length in (0..bytes.len()).rev() {
        file.set_len(length as u64).unwrap();
        assert!(weights::open(&path).is_err(), "cut after {length} bytes");
    }
}

#[test]
fn sizes_that_wrap_are_refused() {
    for dimensions in [vec![1 << 32, 1 << 32], vec![1 << 62, 4], vec![u64::MAX], vec![0, 4]] {
        let mut forged = Gguf::sound();
        forged.tensor("output.weight").dimensions = dimensions;
        assert!(forged.refusal().contains("tensor `output.weight`"));
    }
    for offset in [u64::MAX, u64::MAX - 31, 1 << 63] {
        let mut forged = Gguf::sound();
        forged.tensor("blk.0.ffn_down.weight").offset = Some(offset);
        says(&forged, "leaves a gap");
    }
}

#[test]
fn counts_beyond_the_file_or_the_limit_are_refused_before_they_are_believed() {
    says(&Gguf { tensor_count: Some(65_537), ..Gguf::sound() }, "the limit is 65536");
    says(&Gguf { tensor_count: Some(u64::MAX), ..Gguf::sound() }, "the limit is 65536");
    says(&Gguf { tensor_count: Some(60_000), ..Gguf::sound() }, "is damaged");
    says(&Gguf { key_count: Some(u64::MAX), ..Gguf::sound() }, "the limit is 65536");
    for count in [1 << 40, u64::MAX] {
        let text = Gguf::sound().with("k", array_value(8, count, b""));
        says(&text, "cannot be in the");
        let numbers = Gguf::sound().with("k", array_value(10, count, b""));
        says(&numbers, "cannot be in the");
    }
    let long = [&8_u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat();
    says(&Gguf::sound().with("k", long), "are left");
}

#[test]
fn tensors_must_tile_the_data() {
    let mut gap = Gguf::sound();
    gap.tensor("output_norm.weight").offset = Some(64 + 32);
    says(&gap, "leaves a gap after");
    let mut overlap = Gguf::sound();
    overlap.tensor("output_norm.weight").offset = Some(32);
    says(&overlap, "overlaps");
    let mut first = Gguf::sound();
    first.tensor("token_embd.weight").offset = Some(32);
    assert!(first.refusal().contains("damaged"));
}

#[test]
fn what_follows_the_last_tensor_is_not_read() {
    let mut bytes = Gguf::sound().bytes();
    bytes.extend([0xAA; 1000]);
    assert!(open_bytes("model.gguf", &bytes).is_ok());
}

#[test]
fn a_row_must_be_whole_blocks() {
    let mut forged = Gguf::sound();
    forged.tensor("output.weight").kind = 8;
    says(&forged, "not whole blocks");
}

#[test]
fn names_and_keys_are_there_once() {
    let mut twice = Gguf::sound();
    twice.tensor("output_norm.weight").name = "token_embd.weight".into();
    says(&twice, "the name is there twice");
    let mut twice = Gguf::sound();
    twice.keys.push(("general.name".into(), text_value("again")));
    says(&twice, "the key is there twice");
}

#[test]
fn lengths_have_limits() {
    let key = "k".repeat(257);
    says(&Gguf::sound().with(&key, u32_value(1)), "the limit is 256");
    assert!(Gguf::sound().with(&key[1..], u32_value(1)).open().is_ok());
    let long = "x".repeat(65_537);
    says(&Gguf::sound().with("k", text_value(&long)), "the limit is 65536");
    assert!(Gguf::sound().with("k", text_value(&long[1..])).open().is_ok());
    let mut named = Gguf::sound();
    named.tensor("output.weight").name = key;
    says(&named, "the limit is 256");
    let mut flat = Gguf::sound();
    flat.tensor("output_norm.weight").dimensions = vec![4, 1, 1, 1, 1];
    says(&flat, "5 dimensions");
}

#[test]
fn a_vocabulary_has_at_most_a_million_tokens() {
    let tokens = text("").repeat((1 << 20) + 1);
    let forged =
        Gguf::sound().with("tokenizer.ggml.tokens", array_value(8, (1 << 20) + 1, &tokens));
    says(&forged, "the limit is 1048576");
}

#[test]
fn arrays_do_not_nest() {
    let inner = array_value(0, 1, &[0])[4..].to_vec();
    says(&Gguf::sound().with("k", array_value(9, 1, &inner)), "an array inside an array");
}

#[test]
fn alignment_is_a_power_of_two_up_to_4096() {
    for alignment in [8, 32, 4096] {
        let value = u32_value(u32::try_from(alignment).unwrap());
        let sound = Gguf { alignment, ..Gguf::sound() }.with("general.alignment", value);
        assert!(sound.open().is_ok(), "{alignment}");
    }
    for alignment in [0, 1, 3, 48, 8192, 1 << 31] {
        let forged = Gguf::sound().with("general.alignment", u32_value(alignment));
        says(&forged, "power of two");
    }
    says(&Gguf::sound().with("general.alignment", text_value("32")), "power of two");
}

#[test]
fn values_are_of_the_types_of_the_format() {
    says(&Gguf::sound().with("k", vec![99, 0, 0, 0]), "99 is no type");
    says(&Gguf::sound().with("k", bool_value(2)), "neither true nor false");
    says(&Gguf::sound().with("llama.block_count", text_value("1")), "expected an integer");
    says(&Gguf::sound().with("llama.rope.freq_base", u32_value(1)), "expected a float");
    says(&Gguf::sound().with("", u32_value(1)), "the key is empty");
}

#[test]
fn hyper_parameters_are_there_and_fit() {
    for key in ["embedding_length", "block_count", "feed_forward_length", "attention.head_count"] {
        let key = format!("llama.{key}");
        says(&Gguf::sound().without(&key), &format!("`{key}` is missing"));
        says(&Gguf::sound().with(&key, u32_value(0)), &format!("`{key}` is 0"));
        says(&Gguf::sound().with(&key, u32_value(u32::MAX)), &format!("`{key}` is 4294967295"));
    }
    says(&Gguf::sound().without("llama.context_length"), "`llama.context_length` is missing");
    says(
        &Gguf::sound().with("llama.block_count", u32_value(2)),
        "`blk.1.attn_norm.weight` is missing",
    );
    says(&Gguf::sound().with("llama.attention.head_count_kv", u32_value(3)), "divisor of the 2");
    says(&Gguf::sound().with("llama.rope.dimension_count", u32_value(4)), "the head size 2");
    says(&Gguf::sound().with("llama.vocab_size", u32_value(4)), "the 3 tokens");
    says(&Gguf::sound().with("llama.rope.freq_base", f32_value(f32::NAN)), "rotary base");
    says(&Gguf::sound().with("llama.attention.layer_norm_rms_epsilon", f32_value(-1.0)), "epsilon");
    says(
        &Gguf::sound().with("llama.feed_forward_length", u32_value(7)),
        "tensor `blk.0.ffn_gate.weight` has shape [6, 4], the hyper-parameters ask for [7, 4]",
    );
}

#[test]
fn the_head_size_is_read_where_it_is_stated() {
    let mut wide = Gguf::sound()
        .with("llama.attention.key_length", u32_value(4))
        .with("llama.attention.value_length", u32_value(4));
    for name in ["attn_q", "attn_k", "attn_v", "attn_output"] {
        let tensor = wide.tensor(&format!("blk.0.{name}.weight"));
        let widened = if name == "attn_output" { 0 } else { 1 };
        tensor.dimensions[widened] *= 2;
        tensor.bytes = tensor.bytes.repeat(2);
    }
    let archive = wide.open().unwrap();
    assert_eq!(archive.hyper().head_dim, 4);
    let part = weights::Part::AttentionOutput;
    assert_eq!(archive.tensor(TensorName::Block { layer: 0, part }).unwrap().shape, [4, 8]);
}

#[test]
fn an_output_that_is_missing_is_the_embedding() {
    let mut tied = Gguf::sound();
    tied.tensors.retain(|tensor| tensor.name != "output.weight");
    let archive = tied.open().unwrap();
    assert!(archive.hyper().tied_embeddings);
    let output = archive.tensor(TensorName::Output).unwrap();
    assert_eq!(output.bytes, archive.tensor(TensorName::Embedding).unwrap().bytes);
}

#[test]
fn what_would_change_the_answer_is_refused() {
    says(&Gguf::sound().with("general.architecture", text_value("mamba")), "\"mamba\"");
    says(&Gguf::sound().with("general.architecture", text_value("mistral3")), "\"mistral3\"");
    says(&Gguf::sound().without("general.architecture"), "`general.architecture` is missing");
    says(&Gguf::sound().with("split.count", u32_value(2)), "Merge the parts");
    says(&Gguf::sound().with("llama.expert_count", u32_value(8)), "mixture of experts");
    says(&Gguf::sound().with("llama.rope.scaling.type", text_value("yarn")), "rope scaling");
    says(&Gguf::sound().with("llama.rope.scaling.factor", f32_value(4.0)), "rope scaling");
    let mut biased = Gguf::sound();
    biased
        .tensors
        .push(GgufTensor { name: "blk.0.attn_q.bias".into(), ..biased.tensors[1].clone() });
    says(&biased, "`blk.0.attn_q.bias`");
    let mut other = Gguf::sound();
    other.tensor("output.weight").kind = 16;
    says(&other, "encoding IQ2_XXS of tensor `output.weight`");
}

#[test]
fn a_vocabulary_must_be_whole() {
    let token_ids = [("tokenizer.ggml.bos_token_id", 3), ("tokenizer.ggml.eos_token_id", u32::MAX)];
    for (key, id) in token_ids {
        says(&Gguf::sound().with(key, u32_value(id)), "a token id below 3");
    }
    let scores = array_value(6, 2, &[0; 8]);
    says(&Gguf::sound().with("tokenizer.ggml.scores", scores), "each of 3 tokens");
    let scores = array_value(0, 3, &[0; 3]);
    says(&Gguf::sound().with("tokenizer.ggml.scores", scores), "an array of f32");
    let kinds = array_value(5, 3, &[9; 12]);
    says(&Gguf::sound().with("tokenizer.ggml.token_type", kinds), "from 1 to 6");
    says(&Gguf::sound().with("tokenizer.ggml.model", text_value("bert")), "tokenizer model");
    let foreign = [&text("a")[..], &text("b"), &[1, 0, 0, 0, 0, 0, 0, 0, 0xFF]].concat();
    says(&Gguf::sound().with("tokenizer.ggml.tokens", array_value(8, 3, &foreign)), "not UTF-8");
}

#[test]
fn a_file_without_vocabulary_counts_what_it_embeds() {
    let mut bare = Gguf::sound().without("llama.vocab_size");
    bare.keys.retain(|(key, _)| !key.starts_with("tokenizer."));
    let archive = bare.open().unwrap();
    assert_eq!(archive.hyper().vocabulary, 3);
    assert!(archive.vocabulary().is_none());
}
