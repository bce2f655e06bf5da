//! The header of a safetensors file.
//!
//! Source: the safetensors format: a little-endian `u64` length, that many bytes of JSON beginning
//! with `{`, then the data, which the tensors tile without gap, overlap or tail. The reader is our
//! own because a name that is there twice must be an error, not the last one wins.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::json::Once;
use crate::mapped::{HEADER_BYTES_MAX, Mapped};
use crate::table::{DIMENSIONS_MAX, Place, TENSORS_MAX, Table, tensor_bytes};
use crate::{Encoding, TensorLayout, WeightsError};

const METADATA: &str = "__metadata__";
const LENGTH_BYTES: usize = 8;

/// Whether the file is named as one.
pub(crate) fn is_safetensors(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "safetensors")
}

/// Reads the header of `file`, the `index`-th of its model, into the table.
pub(crate) fn read(file: &Mapped, index: usize, table: &mut Table) -> Result<(), WeightsError> {
    let Some((length, rest)) = file.bytes.split_first_chunk::<LENGTH_BYTES>() else {
        let problem = format!("{} bytes cannot hold the header's length", file.bytes.len());
        return Err(file.malformed("byte 0", problem));
    };
    let stated = u64::from_le_bytes(*length);
    file.within("the length of the header in bytes", stated, HEADER_BYTES_MAX)?;
    let cut = usize::try_from(stated).ok().and_then(|length| rest.split_at_checked(length));
    let Some((json, data)) = cut else {
        let problem = format!("a header of {stated} bytes, {} are left", rest.len());
        return Err(file.malformed("byte 0", problem));
    };
    if json.first() != Some(&b'{') {
        return Err(file.malformed("the header", "it does not begin with {"));
    }
    let lines: Lines = serde_json::from_slice(json)
        .map_err(|error| file.malformed("the header", error.to_string()))?;
    let data_begin = LENGTH_BYTES + json.len();
    for (name, place) in tile(file, lines.0, data_begin, data.len())? {
        table.insert(file, name, Place { file: index, ..place })?;
    }
    Ok(())
}

/// Each tensor must begin where the one before it ends, and the last end with the file.
fn tile(
    file: &Mapped,
    mut lines: Vec<(String, Line)>,
    data_begin: usize,
    data_bytes: usize,
) -> Result<Vec<(String, Place)>, WeightsError> {
    lines.sort_by_key(|(_, line)| line.data_offsets);
    let mut end = 0_usize;
    let mut places = Vec::with_capacity(lines.len());
    for (name, line) in lines {
        let wrong = |problem: String| file.malformed(format!("tensor `{name}`"), problem);
        let encoding = encoding(file, &name, &line.dtype)?;
        let [begins, ends] = line.data_offsets;
        if begins != end as u64 {
            let found = if begins < end as u64 { "overlaps" } else { "leaves a gap after" };
            let problem = format!("offset {begins} {found} the tensor before it, expected {end}");
            return Err(wrong(problem));
        }
        let shape = shape(&line.shape.0).ok_or_else(|| wrong("a dimension is too large".into()))?;
        let bytes = tensor_bytes(encoding, &shape)
            .ok_or_else(|| wrong(format!("shape {shape:?} is too large")))?;
        let reach = end.checked_add(bytes).filter(|&reach| ends == reach as u64);
        let Some(reach) = reach else {
            let problem = format!(
                "shape {shape:?} in {} is {bytes} bytes, the offsets are {begins} to {ends}",
                encoding.name()
            );
            return Err(wrong(problem));
        };
        if reach > data_bytes {
            return Err(wrong(format!("it ends at {reach} of {data_bytes} bytes of data")));
        }
        let range = data_begin + end..data_begin + reach;
        end = reach;
        places.push((name, Place { file: 0, shape, encoding, layout: TensorLayout::Rows, range }));
    }
    if end != data_bytes {
        let problem = format!("the tensors end at {end}, the data at {data_bytes} bytes");
        return Err(file.malformed("the end", problem));
    }
    Ok(places)
}

fn shape(stated: &[u64]) -> Option<Vec<usize>> {
    stated.iter().map(|&dimension| usize::try_from(dimension).ok()).collect()
}

fn encoding(file: &Mapped, name: &str, dtype: &str) -> Result<Encoding, WeightsError> {
    match dtype {
        "F32" => Ok(Encoding::F32),
        "F16" => Ok(Encoding::F16),
        "BF16" => Ok(Encoding::Bf16),
        other => {
            let dtype: String = other.chars().take(60).collect();
            Err(WeightsError::Unsupported {
                path: file.path.clone(),
                what: format!("dtype {dtype:?} of tensor `{name}`"),
                advice: "Use a file in BF16, F16 or F32, or a quantised GGUF file.".into(),
            })
        }
    }
}

/// What the header says of one tensor.
#[derive(Deserialize)]
struct Line {
    dtype: String,
    shape: Shape,
    data_offsets: [u64; 2],
}

/// Dimensions, never more than a tensor may have.
struct Shape(Vec<u64>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Dimensions;
        impl<'de> Visitor<'de> for Dimensions {
            type Value = Shape;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "at most {DIMENSIONS_MAX} dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(dimension) = items.next_element()? {
                    if shape.len() == DIMENSIONS_MAX {
                        return Err(de::Error::invalid_length(DIMENSIONS_MAX + 1, &self));
                    }
                    shape.push(dimension);
                }
                Ok(Shape(shape))
            }
        }
        deserializer.deserialize_seq(Dimensions)
    }
}

/// The header's lines; the table refuses a name that is there twice.
struct Lines(Vec<(String, Line)>);

impl<'de> Deserialize<'de> for Lines {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Header;
        impl<'de> Visitor<'de> for Header {
            type Value = Lines;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "an object with at most {TENSORS_MAX} tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Lines, A::Error> {
                let mut lines = Vec::new();
                let mut noted = false;
                while let Some(key) = map.next_key::<String>()? {
                    if lines.len() == TENSORS_MAX {
                        return Err(de::Error::invalid_length(TENSORS_MAX + 1, &self));
                    }
                    if key != METADATA {
                        lines.push((key, map.next_value()?));
                        continue;
                    }
                    if noted {
                        return Err(de::Error::duplicate_field(METADATA));
                    }
                    // Texts for people: checked and dropped.
                    map.next_value::<Once<String>>()?;
                    noted = true;
                }
                Ok(Lines(lines))
            }
        }
        deserializer.deserialize_map(Header)
    }
}
