//! Writes a model that was made here as one GGUF file.

use std::path::Path;

use super::ARCHITECTURE;
use super::header::{Kind, MAGIC};
use super::sink::Sink;
use super::vocabulary::{KINDS, MODEL, SCORES, TOKENS};
use crate::mapped::Mapped;
use crate::{Encoding, Hyper, TensorName, TokenKind, Vocabulary, WeightsError};
use crate::{RopePairing, archive::Container};

/// What the format takes where a file says nothing.
const ALIGNMENT_BYTES: u64 = 32;

/// A tensor of a new file.
#[derive(Debug, Clone, Copy)]
pub struct NewTensor<'a> {
    /// Its name; its shape is the one that the hyper-parameters say.
    pub name: TensorName,
    /// How it is to be kept: F32 or Q8_0.
    pub encoding: Encoding,
    /// Rows first.
    pub values: &'a [f32],
}

/// Writes a model with a SentencePiece-like vocabulary to `output`, replacing what is there. The file
/// appears under its name when it is whole and can be opened; its bytes come back.
///
/// Errors: `Unsupported` for an encoding that is not written, another kind of vocabulary or pairing;
/// `RowLength`; `Io`.
/// Panics: when the values of a tensor are not as many as its shape says.
pub fn write_gguf(
    output: &Path,
    hyper: &Hyper,
    vocabulary: &Vocabulary,
    tensors: &[NewTensor<'_>],
) -> Result<u64, WeightsError> {
    let unsupported = |what: &str, advice: &str| WeightsError::Unsupported {
        path: output.to_owned(),
        what: what.into(),
        advice: advice.into(),
    };
    if vocabulary.model != ARCHITECTURE || hyper.pairing != RopePairing::Adjacent {
        let advice = "Give SentencePiece pieces with scores, and rotary pairs side by side.";
        return Err(unsupported("to write this model as GGUF", advice));
    }
    let packed: Vec<Vec<u8>> = tensors
        .iter()
        .map(|tensor| {
            let shape = hyper.shape_of(tensor.name);
            assert_eq!(shape.iter().product::<usize>(), tensor.values.len(), "{:?}", tensor.name);
            let row = shape.last().copied().unwrap_or(1);
            tensor.encoding.row_bytes(row)?;
            tensor.encoding.pack(tensor.values).ok_or_else(|| {
                unsupported(&format!("to write {}", tensor.encoding.name()), "Use F32 or Q8_0.")
            })
        })
        .collect::<Result<_, _>>()?;
    let mut sink = Sink::create(output)?;
    let pairs = pairs(hyper, vocabulary);
    sink.write(MAGIC)?;
    sink.write(&3_u32.to_le_bytes())?;
    sink.write(&(tensors.len() as u64).to_le_bytes())?;
    sink.write(&(pairs.len() as u64).to_le_bytes())?;
    for (key, value) in &pairs {
        write_pair(&mut sink, key, value)?;
    }
    let mut offset: u64 = 0;
    for (tensor, bytes) in tensors.iter().zip(&packed) {
        let name = tensor.name.spelled(Container::Gguf);
        let shape = hyper.shape_of(tensor.name);
        sink.entry(&name, &shape, tensor.encoding.gguf(), offset)?;
        offset = (offset + bytes.len() as u64).next_multiple_of(ALIGNMENT_BYTES);
    }
    sink.pad(ALIGNMENT_BYTES)?;
    for bytes in &packed {
        sink.write(bytes)?;
        sink.pad(ALIGNMENT_BYTES)?;
    }
    let bytes = sink.at;
    let written = sink.flush()?;
    // What cannot be opened is not handed out.
    super::open(Mapped::open(&written.temporary)?)?;
    written.publish()?;
    Ok(bytes)
}

/// A value of the header.
enum NewValue<'a> {
    Text(&'a str),
    Count(u32),
    Number(f32),
    Truth(bool),
    Texts(&'a [String]),
    Numbers(&'a [f32]),
    Kinds(&'a [TokenKind]),
}

fn pairs<'a>(hyper: &'a Hyper, vocabulary: &'a Vocabulary) -> Vec<(String, NewValue<'a>)> {
    let mut pairs = vec![("general.architecture".to_owned(), NewValue::Text(ARCHITECTURE))];
    let texts = [
        ("general.name", &hyper.name),
        ("general.license", &hyper.license),
        ("tokenizer.ggml.pre", &vocabulary.pre),
        ("tokenizer.chat_template", &vocabulary.chat_template),
    ];
    for (key, text) in texts {
        pairs.extend(text.as_ref().map(|text| (key.to_owned(), NewValue::Text(text))));
    }
    let counts = [
        ("context_length", hyper.context_tokens_max),
        ("embedding_length", hyper.hidden),
        ("block_count", hyper.layers),
        ("feed_forward_length", hyper.feed_forward),
        ("attention.head_count", hyper.heads),
        ("attention.head_count_kv", hyper.kv_heads),
        ("attention.key_length", hyper.head_dim),
        ("attention.value_length", hyper.head_dim),
        ("rope.dimension_count", hyper.head_dim),
        ("vocab_size", hyper.vocabulary),
    ];
    let key = |name: &str| format!("{ARCHITECTURE}.{name}");
    pairs.extend(counts.map(|(name, count)| (key(name), NewValue::Count(count))));
    let numbers = [
        ("rope.freq_base", hyper.rope_theta),
        ("attention.layer_norm_rms_epsilon", hyper.rms_epsilon),
    ];
    pairs.extend(numbers.map(|(name, number)| (key(name), NewValue::Number(number as f32))));
    pairs.extend([
        (MODEL.to_owned(), NewValue::Text(&vocabulary.model)),
        (TOKENS.to_owned(), NewValue::Texts(&vocabulary.tokens)),
        (SCORES.to_owned(), NewValue::Numbers(&vocabulary.scores)),
        (KINDS.to_owned(), NewValue::Kinds(&vocabulary.kinds)),
    ]);
    let ids = [
        ("tokenizer.ggml.bos_token_id", vocabulary.bos),
        ("tokenizer.ggml.eos_token_id", vocabulary.eos),
        ("tokenizer.ggml.unknown_token_id", vocabulary.unknown),
    ];
    for (key, id) in ids {
        pairs.extend(id.map(|id| (key.to_owned(), NewValue::Count(id))));
    }
    let truths = [
        ("tokenizer.ggml.add_space_prefix", vocabulary.add_space_prefix),
        ("tokenizer.ggml.add_bos_token", vocabulary.add_bos),
    ];
    for (key, truth) in truths {
        pairs.extend(truth.map(|truth| (key.to_owned(), NewValue::Truth(truth))));
    }
    pairs
}

fn write_pair(sink: &mut Sink, key: &str, value: &NewValue<'_>) -> Result<(), WeightsError> {
    let array = |sink: &mut Sink, kind: Kind, count: usize| {
        sink.key(key, Kind::Array)?;
        sink.write(&(kind as u32).to_le_bytes())?;
        sink.write(&(count as u64).to_le_bytes())
    };
    match value {
        NewValue::Text(text) => {
            sink.key(key, Kind::Text)?;
            sink.text(text)
        }
        NewValue::Count(count) => {
            sink.key(key, Kind::U32)?;
            sink.write(&count.to_le_bytes())
        }
        NewValue::Number(number) => {
            sink.key(key, Kind::F32)?;
            sink.write(&number.to_le_bytes())
        }
        NewValue::Truth(truth) => {
            sink.key(key, Kind::Bool)?;
            sink.write(&[u8::from(*truth)])
        }
        NewValue::Texts(texts) => {
            array(sink, Kind::Text, texts.len())?;
            texts.iter().try_for_each(|text| sink.text(text))
        }
        NewValue::Numbers(numbers) => {
            array(sink, Kind::F32, numbers.len())?;
            numbers.iter().try_for_each(|number| sink.write(&number.to_le_bytes()))
        }
        NewValue::Kinds(kinds) => {
            array(sink, Kind::I32, kinds.len())?;
            kinds.iter().try_for_each(|kind| sink.write(&kind.number().to_le_bytes()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Part, open};

    #[test]
    fn a_written_model_opens_and_says_what_was_put_in() {
        let mut tokens = vec![("<unk>".to_owned(), TokenKind::Unknown)];
        tokens.extend(["<s>", "</s>"].map(|name| (name.to_owned(), TokenKind::Control)));
        tokens.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), TokenKind::Byte)));
        let vocabulary = Vocabulary {
            add_space_prefix: Some(true),
            add_bos: Some(true),
            ..Vocabulary::new("llama", tokens)
        };
        let hyper = Hyper {
            name: Some("made here".into()),
            license: Some("MIT".into()),
            vocabulary: vocabulary.tokens.len() as u32,
            hidden: 32,
            feed_forward: 64,
            layers: 1,
            heads: 2,
            kv_heads: 1,
            head_dim: 16,
            context_tokens_max: 128,
            rope_theta: 10_000.0,
            rms_epsilon: 0.5,
            sliding_window: None,
            tied_embeddings: true,
            pairing: RopePairing::Adjacent,
        };
        let blocks = Part::ALL.map(|part| TensorName::Block { layer: 0, part });
        let names: Vec<TensorName> =
            [TensorName::Embedding, TensorName::OutputNorm].into_iter().chain(blocks).collect();
        let values: Vec<Vec<f32>> = names
            .iter()
            .map(|name| {
                let count = hyper.shape_of(*name).iter().product::<usize>();
                (0..count).map(|at| ((at * 37 % 101) as f32 - 50.0) / 25.0).collect()
            })
            .collect();
        let encoding = |name: TensorName| match hyper.shape_of(name).len() {
            1 => Encoding::F32,
            _ => Encoding::Q8_0,
        };
        let tensors: Vec<NewTensor<'_>> = names
            .iter()
            .zip(&values)
            .map(|(name, values)| NewTensor { name: *name, encoding: encoding(*name), values })
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new.gguf");
        let bytes = write_gguf(&path, &hyper, &vocabulary, &tensors).unwrap();
        assert_eq!(bytes, std::fs::metadata(&path).unwrap().len());
        let archive = open(&path).unwrap();
        assert_eq!(*archive.hyper(), hyper);
        assert_eq!(archive.vocabulary(), Some(&vocabulary));
        for tensor in &tensors {
            let raw = archive.tensor(tensor.name).unwrap();
            let mut read = vec![0.0; tensor.values.len()];
            raw.encoding.unpack(&raw.bytes, &mut read).unwrap();
            // Half a step of the largest number, and what the scale loses as f16.
            let bound = if raw.encoding == Encoding::F32 { 0.0 } else { 2.0 / 127.0 * 0.5 + 2e-3 };
            for (read, value) in read.iter().zip(tensor.values) {
                assert!((read - value).abs() <= bound, "{:?}: {read}, not {value}", tensor.name);
            }
        }
        let q4 = [NewTensor { encoding: Encoding::Q4_0, ..tensors[0] }];
        let refused = write_gguf(&path, &hyper, &vocabulary, &q4).unwrap_err().to_string();
        assert!(refused.contains("Q4_0") && refused.contains("Use F32 or Q8_0"), "{refused}");
    }
}
