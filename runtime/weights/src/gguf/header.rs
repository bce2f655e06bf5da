//! The header of a GGUF file: keys with values, then the tensor table.
//!
//! Source: the GGUF specification, versions 2 and 3, little-endian. Nothing is allocated for a
//! number in the header before that number was compared with the bytes that remain; arrays stay
//! views into the file.

use std::collections::HashMap;
use std::ops::Range;

use crate::mapped::{HEADER_BYTES_MAX, KEY_BYTES_MAX, Mapped};
use crate::table::{Place, TENSORS_MAX, Table, panels_bytes, tensor_bytes};
use crate::{Encoding, TensorLayout, WeightsError};

pub(super) const MAGIC: &[u8; 4] = b"GGUF";
const KEYS_MAX: u64 = 65_536;
const STRING_BYTES_MAX: u64 = 64 << 10;
/// What a GGUF tensor has at most.
const GGUF_DIMENSIONS_MAX: u32 = 4;
const ALIGNMENT_DEFAULT: u64 = 32;
pub(super) const ALIGNMENT_MAX: u64 = 4096;
pub(super) const ALIGNMENT: &str = "general.alignment";
/// The key that says in which version of their layout matrices lie in panels.
pub(super) const PANELS: &str = "zonda.panels";
pub(super) const PANELS_VERSION: u32 = 1;
/// Added to a tensor's type, says that it lies in panels; the types of the format are far below.
pub(super) const PANELS_TYPE: u32 = 0x7A00;
const PANELS_TYPE_MASK: u32 = !0xff;

/// Whether the bytes claim to be GGUF.
pub(crate) fn is_gguf(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// The type of a value, by its number in the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    /// In the order of the format's numbers.
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Text,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// Bytes of a value; for text the bytes of its length field, the least it can take.
    fn bytes_min(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Text | Self::Array => 8,
        }
    }
}

/// A value of the metadata.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Integer(i128),
    Float(f64),
    Bool(bool),
    Text(&'a str),
    Array(Array<'a>),
}

impl Value<'_> {
    /// To show in an error; never the whole of a long text.
    pub(super) fn show(&self) -> String {
        match self {
            Self::Integer(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
            Self::Bool(truth) => truth.to_string(),
            Self::Text(text) => format!("{:?}", text.chars().take(60).collect::<String>()),
            Self::Array(array) => format!("an array of {} values", array.count),
        }
    }
}

/// An array that was walked once: its elements are known to be whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Array<'a> {
    pub(super) kind: Kind,
    pub(super) count: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// Its elements, if they are texts.
    pub(super) fn texts(self) -> Option<impl Iterator<Item = &'a str>> {
        (self.kind == Kind::Text).then(|| {
            let mut rest = self.bytes;
            std::iter::from_fn(move || {
                let (length, tail) = rest.split_first_chunk::<8>()?;
                let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
                let (text, tail) = tail.split_at_checked(length)?;
                rest = tail;
                std::str::from_utf8(text).ok()
            })
        })
    }

    /// Its elements, if they are 4 bytes each of the kind asked for.
    pub(super) fn words(self, kind: Kind) -> Option<impl Iterator<Item = [u8; 4]>> {
        let (words, rest) = self.bytes.as_chunks::<4>();
        (self.kind == kind && kind.bytes_min() == 4 && rest.is_empty())
            .then(|| words.iter().copied())
    }
}

/// What the header says.
#[derive(Debug)]
pub(super) struct Header<'a> {
    pub(super) values: HashMap<&'a str, Value<'a>>,
    pub(super) table: Table,
    /// Each key with the bytes of it and its value, in the file's order.
    pub(super) pairs: Vec<(&'a str, Range<usize>)>,
}

/// Reads keys and tensor table, and checks that the tensors tile the file.
pub(super) fn read(file: &Mapped) -> Result<Header<'_>, WeightsError> {
    let mut cursor = Cursor::new(file);
    cursor.magic_and_version()?;
    let tensors = cursor.u64("the tensor count")?;
    let keys = cursor.u64("the key count")?;
    file.within("the number of tensors", tensors, TENSORS_MAX as u64)?;
    file.within("the number of keys", keys, KEYS_MAX)?;
    let (mut values, mut pairs) = (HashMap::new(), Vec::new());
    for _ in 0..keys {
        let begin = cursor.at;
        let key = cursor.key()?;
        let value = cursor.value(key)?;
        if values.insert(key, value).is_some() {
            return Err(file.malformed(format!("key `{key}`"), "the key is there twice"));
        }
        pairs.push((key, begin..cursor.at));
    }
    let alignment = alignment(file, &values)?;
    let has_panels = has_panels(file, &values)?;
    let mut stated = Vec::new();
    for _ in 0..tensors {
        stated.push(cursor.tensor(has_panels)?);
    }
    let table = place_tensors(file, stated, cursor.at, alignment)?;
    Ok(Header { values, table, pairs })
}

fn alignment(file: &Mapped, values: &HashMap<&str, Value<'_>>) -> Result<u64, WeightsError> {
    match values.get(ALIGNMENT) {
        None => Ok(ALIGNMENT_DEFAULT),
        Some(&Value::Integer(number)) if (8..=i128::from(ALIGNMENT_MAX)).contains(&number) => {
            let number = u64::try_from(number).unwrap_or(0);
            if number.is_power_of_two() {
                return Ok(number);
            }
            Err(file.malformed(ALIGNMENT, format!("{number} is not a power of two")))
        }
        Some(other) => Err(file.malformed(
            ALIGNMENT,
            format!("{} is not a power of two from 8 to {ALIGNMENT_MAX}", other.show()),
        )),
    }
}

/// Whether tensors may lie in panels, in the one version of their layout that is read.
fn has_panels(file: &Mapped, values: &HashMap<&str, Value<'_>>) -> Result<bool, WeightsError> {
    match values.get(PANELS) {
        None => Ok(false),
        Some(&Value::Integer(version)) if version == i128::from(PANELS_VERSION) => Ok(true),
        Some(other) => Err(WeightsError::Unsupported {
            path: file.path.clone(),
            what: format!("a model prepared in layout {}", other.show()),
            advice: "Prepare it again with this version, from the model that it was made of."
                .into(),
        }),
    }
}

/// What a type number of the tensor table stands for.
fn tensor_type(
    file: &Mapped,
    name: &str,
    number: u32,
) -> Result<(Encoding, TensorLayout), WeightsError> {
    let (own, layout) = if number & PANELS_TYPE_MASK == PANELS_TYPE {
        (number - PANELS_TYPE, TensorLayout::Panels)
    } else {
        (number, TensorLayout::Rows)
    };
    let encoding = Encoding::from_gguf(own).map_err(|known| match known {
        Some(known) => WeightsError::Unsupported {
            path: file.path.clone(),
            what: format!("encoding {known} of tensor `{name}`"),
            advice: "Use a file in Q8_0, Q4_K_M or another encoding that is read.".into(),
        },
        None => {
            let problem = format!("{number} is no tensor type of the format");
            file.malformed(format!("tensor `{name}`"), problem)
        }
    })?;
    Ok((encoding, layout))
}

/// A line of the tensor table before its place in the file is known to exist.
struct Stated<'a> {
    name: &'a str,
    shape: Vec<usize>,
    encoding: Encoding,
    layout: TensorLayout,
    bytes: usize,
    offset: u64,
}

/// Each tensor must begin where the one before it ends, rounded up to the alignment.
///
/// What follows the last tensor is left alone: the format says nothing about it, and no view
/// reaches it.
fn place_tensors(
    file: &Mapped,
    mut stated: Vec<Stated<'_>>,
    header_end: usize,
    alignment: u64,
) -> Result<Table, WeightsError> {
    stated.sort_by_key(|tensor| tensor.offset);
    let file_bytes = file.bytes.len() as u64;
    let mut table = Table::default();
    let too_far = |name: &str| {
        let problem = format!("with its padding it reaches beyond the file's {file_bytes} bytes");
        file.malformed(format!("tensor `{name}`"), problem)
    };
    let mut expected = 0_u64;
    let data = (header_end as u64).next_multiple_of(alignment);
    for tensor in stated {
        let name = tensor.name;
        if tensor.offset != expected {
            let found = if tensor.offset < expected { "overlaps" } else { "leaves a gap after" };
            let problem = format!(
                "offset {} {found} the tensor before it, expected {expected}",
                tensor.offset
            );
            return Err(file.malformed(format!("tensor `{name}`"), problem));
        }
        let begin = data.checked_add(expected).ok_or_else(|| too_far(name))?;
        let end = begin.checked_add(tensor.bytes as u64).ok_or_else(|| too_far(name))?;
        expected = (end - data).checked_next_multiple_of(alignment).ok_or_else(|| too_far(name))?;
        // The padding belongs to the tensor, the last one's too.
        if data.checked_add(expected).is_none_or(|padded| padded > file_bytes) {
            return Err(too_far(name));
        }
        // Both are at most the length of a slice.
        let range = begin as usize..end as usize;
        let Stated { shape, encoding, layout, .. } = tensor;
        let place = Place { file: 0, shape, encoding, layout, range };
        table.insert(file, name.to_owned(), place)?;
    }
    Ok(table)
}

/// Reads forward through the header, never past its limit.
struct Cursor<'a> {
    file: &'a Mapped,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(file: &'a Mapped) -> Self {
        let end = usize::try_from(HEADER_BYTES_MAX).map_or(usize::MAX, |limit| limit);
        Self { file, bytes: &file.bytes[..file.bytes.len().min(end)], at: 0 }
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8], WeightsError> {
        let Some(count) = usize::try_from(count).ok().filter(|&count| count <= self.remaining())
        else {
            let room =
                if self.bytes.len() < self.file.bytes.len() { "the limit" } else { "the end" };
            let problem =
                format!("{what} needs {count} bytes, {} are left to {room}", self.remaining());
            return Err(self.file.malformed(format!("byte {}", self.at), problem));
        };
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], WeightsError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64, what)?);
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, WeightsError> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, WeightsError> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn magic_and_version(&mut self) -> Result<(), WeightsError> {
        if self.array::<4>("the magic")? != *MAGIC {
            return Err(self.file.malformed("byte 0", "the magic is not GGUF"));
        }
        let version = self.u32("the version")?;
        if (2..=3).contains(&version) {
            return Ok(());
        }
        let (what, advice) = if (1..=3).contains(&version.swap_bytes()) {
            ("a big-endian GGUF file".to_owned(), "Convert the model to little-endian.")
        } else {
            (format!("GGUF version {version}"), "Use a file of version 2 or 3.")
        };
        let path = self.file.path.clone();
        Err(WeightsError::Unsupported { path, what, advice: advice.into() })
    }

    fn text(&mut self, what: &str, limit: u64) -> Result<&'a str, WeightsError> {
        let at = self.at;
        let length = self.u64(what)?;
        // A length beyond the file is a damaged file, not a long text.
        if length <= self.remaining() as u64 {
            self.file.within(
                format!("the length of {what} at byte {at} in bytes"),
                length,
                limit,
            )?;
        }
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes)
            .map_err(|_| self.file.malformed(format!("byte {at}"), format!("{what} is not UTF-8")))
    }

    fn key(&mut self) -> Result<&'a str, WeightsError> {
        let at = self.at;
        let key = self.text("a key", KEY_BYTES_MAX)?;
        if key.is_empty() {
            return Err(self.file.malformed(format!("byte {at}"), "the key is empty"));
        }
        Ok(key)
    }

    fn kind(&mut self, key: &str) -> Result<Kind, WeightsError> {
        let number = self.u32("a value's type")?;
        let kind = usize::try_from(number).ok().and_then(|index| Kind::ALL.get(index));
        kind.copied().ok_or_else(|| {
            self.file
                .malformed(format!("key `{key}`"), format!("{number} is no type of the format"))
        })
    }

    fn value(&mut self, key: &str) -> Result<Value<'a>, WeightsError> {
        let kind = self.kind(key)?;
        self.value_of(kind, key)
    }

    fn value_of(&mut self, kind: Kind, key: &str) -> Result<Value<'a>, WeightsError> {
        Ok(match kind {
            Kind::U8 => Value::Integer(self.array(key).map(u8::from_le_bytes)?.into()),
            Kind::I8 => Value::Integer(self.array(key).map(i8::from_le_bytes)?.into()),
            Kind::U16 => Value::Integer(self.array(key).map(u16::from_le_bytes)?.into()),
            Kind::I16 => Value::Integer(self.array(key).map(i16::from_le_bytes)?.into()),
            Kind::U32 => Value::Integer(self.u32(key)?.into()),
            Kind::I32 => Value::Integer(self.array(key).map(i32::from_le_bytes)?.into()),
            Kind::U64 => Value::Integer(self.u64(key)?.into()),
            Kind::I64 => Value::Integer(self.array(key).map(i64::from_le_bytes)?.into()),
            Kind::F32 => Value::Float(self.array(key).map(f32::from_le_bytes)?.into()),
            Kind::F64 => Value::Float(self.array(key).map(f64::from_le_bytes)?),
            Kind::Bool => match self.array::<1>(key)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [byte] => {
                    let problem = format!("{byte} is neither true nor false");
                    return Err(self.file.malformed(format!("key `{key}`"), problem));
                }
            },
            Kind::Text => Value::Text(self.text(key, STRING_BYTES_MAX)?),
            Kind::Array => Value::Array(self.elements(key)?),
        })
    }

    fn elements(&mut self, key: &str) -> Result<Array<'a>, WeightsError> {
        let kind = self.kind(key)?;
        let stated = self.u64(key)?;
        let wrong = |problem: String| self.file.malformed(format!("key `{key}`"), problem);
        if kind == Kind::Array {
            return Err(wrong("an array inside an array is not read".into()));
        }
        let room = self.remaining() / kind.bytes_min();
        let Some(count) = usize::try_from(stated).ok().filter(|&count| count <= room) else {
            return Err(wrong(format!("{stated} elements cannot be in the {room} places left")));
        };
        let begin = self.at;
        match kind {
            Kind::Text => {
                for _ in 0..count {
                    self.text(key, STRING_BYTES_MAX)?;
                }
            }
            // Cannot overflow: the product is at most what remains.
            _ => {
                self.take((count * kind.bytes_min()) as u64, key)?;
            }
        }
        Ok(Array { kind, count, bytes: &self.bytes[begin..self.at] })
    }

    fn tensor(&mut self, has_panels: bool) -> Result<Stated<'a>, WeightsError> {
        let file = self.file;
        let name = self.text("a tensor's name", KEY_BYTES_MAX)?;
        let wrong = |problem: String| file.malformed(format!("tensor `{name}`"), problem);
        let dimensions = self.u32("the number of dimensions")?;
        if !(1..=GGUF_DIMENSIONS_MAX).contains(&dimensions) {
            return Err(wrong(format!(
                "{dimensions} dimensions, 1 to {GGUF_DIMENSIONS_MAX} are read"
            )));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let dimension = self.u64("a dimension")?;
            if dimension == 0 {
                return Err(wrong("a dimension is 0".into()));
            }
            shape.push(
                usize::try_from(dimension).map_err(|_| wrong("a dimension is too large".into()))?,
            );
        }
        // The file states columns first.
        shape.reverse();
        let number = self.u32("a tensor's type")?;
        let offset = self.u64("a tensor's offset")?;
        let (encoding, layout) = tensor_type(file, name, number)?;
        if layout == TensorLayout::Panels && !has_panels {
            return Err(wrong(format!("type {number} means panels, but `{PANELS}` is missing")));
        }
        let bytes = match layout {
            TensorLayout::Rows => tensor_bytes(encoding, &shape),
            TensorLayout::Panels => panels_bytes(encoding, &shape),
        };
        let bytes = bytes.ok_or_else(|| {
            let expected = match layout {
                TensorLayout::Rows => "whole blocks",
                TensorLayout::Panels => "a matrix of whole blocks",
            };
            let name = encoding.name();
            wrong(format!("shape {shape:?} in {name} is not {expected}, or too large"))
        })?;
        Ok(Stated { name, shape, encoding, layout, bytes, offset })
    }
}
