//! From the bytes of a file to a network that tract may analyse.
//!
//! tract believes a file in places where it should not: it takes a tensor's stated shape before it
//! looks at the bytes, and it opens other files that a tensor names. So the message is looked at
//! first.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, TensorProto};
use tract_onnx::prelude::{Framework, InferenceModel, TractResult, onnx};

use crate::OnnxError;
use crate::files::{NETWORK_BYTES_MAX, read};

/// Most nodes, of nested graphs too.
const NODES_MAX: usize = 100_000;
/// Deepest nesting of graphs.
const DEPTH_MAX: usize = 8;
/// Most characters of tract's words in an error.
const MESSAGE_CHARACTERS_MAX: usize = 400;

/// Reads a network.
///
/// Errors: a file that cannot be read, is too large, or is not a network that tract understands.
pub(crate) fn open(path: &Path) -> Result<InferenceModel, OnnxError> {
    let bytes = read(path, NETWORK_BYTES_MAX)?;
    let malformed = |message| OnnxError::Malformed { path: path.to_owned(), message };
    guarded(|| {
        let proto = onnx().proto_model_for_read(&mut bytes.as_slice())?;
        let graph = proto.graph.as_ref();
        let problem = match graph {
            None => Some("it has no graph".to_owned()),
            Some(graph) => check(graph, 0, &mut 0).err(),
        };
        Ok((proto, problem))
    })
    .and_then(|(proto, problem): (ModelProto, _)| match problem {
        Some(problem) => Err(problem),
        None => guarded(|| onnx().model_for_proto_model(&proto)),
    })
    .map_err(|message| malformed(format!("not a usable ONNX network: {message}")))
}

/// Runs tract's code. It panics on some graphs that it does not understand; no state outlives the
/// call, so a panic is an error like any other.
pub(crate) fn guarded<T>(work: impl FnOnce() -> TractResult<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(shortened(&format!("{error:#}"))),
        Err(_) => Err("tract, which reads and runs it, met a defect of its own".to_owned()),
    }
}

/// tract repeats whole facts of a graph; the first words say what is wrong.
fn shortened(message: &str) -> String {
    let line: String =
        message.chars().take(MESSAGE_CHARACTERS_MAX).flat_map(char::escape_debug).collect();
    if message.chars().nth(MESSAGE_CHARACTERS_MAX).is_some() { format!("{line}…") } else { line }
}

fn check(graph: &GraphProto, depth: usize, nodes: &mut usize) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("graphs are nested deeper than {DEPTH_MAX}"));
    }
    *nodes += graph.node.len();
    if *nodes > NODES_MAX {
        return Err(format!("more than {NODES_MAX} nodes"));
    }
    if !graph.sparse_initializer.is_empty() {
        return Err("sparse tensors are not supported".to_owned());
    }
    graph.initializer.iter().try_for_each(check_tensor)?;
    let attributes = graph.node.iter().flat_map(|node| &node.attribute);
    attributes.into_iter().try_for_each(|attribute| check_attribute(attribute, depth, nodes))
}

fn check_attribute(
    attribute: &AttributeProto,
    depth: usize,
    nodes: &mut usize,
) -> Result<(), String> {
    attribute.t.iter().chain(&attribute.tensors).try_for_each(check_tensor)?;
    let graphs = attribute.g.iter().chain(&attribute.graphs);
    graphs.into_iter().try_for_each(|graph| check(graph, depth + 1, nodes))
}

/// The stated shape has exactly the values that the message brings.
fn check_tensor(tensor: &TensorProto) -> Result<(), String> {
    let name: String = tensor.name.chars().take(64).flat_map(char::escape_debug).collect();
    if !tensor.external_data.is_empty() || tensor.data_location.is_some_and(|place| place != 0) {
        return Err(format!("tensor {name:?} lies in another file; save the network as one file"));
    }
    let stated = tensor.dims.iter().try_fold(1_u64, |product, dim| {
        u64::try_from(*dim).ok().and_then(|dim| product.checked_mul(dim))
    });
    let brought = values(tensor);
    match (stated, brought) {
        (Some(stated), Some(brought)) if stated == brought => Ok(()),
        (_, None) => Err(format!("tensor {name:?} has values of a type that is not supported")),
        (_, Some(brought)) => Err(format!(
            "tensor {name:?} has the shape {:?}, but {brought} values",
            &tensor.dims[..tensor.dims.len().min(16)]
        )),
    }
}

/// How many values a tensor brings; `None` for types that are not supported, and for bytes that are
/// no whole number of values.
fn values(tensor: &TensorProto) -> Option<u64> {
    // The numbers of TensorProto.DataType: bytes of a value, and the list of values without bytes.
    let (bytes, listed) = match tensor.data_type {
        1 => (4, tensor.float_data.len()),
        2 | 3 | 9 => (1, tensor.int32_data.len()),
        4 | 5 | 10 => (2, tensor.int32_data.len()),
        6 => (4, tensor.int32_data.len()),
        7 => (8, tensor.int64_data.len()),
        11 => (8, tensor.double_data.len()),
        _ => return None,
    };
    match tensor.raw_data.len() {
        0 => Some(listed as u64),
        raw if raw % bytes == 0 => Some((raw / bytes) as u64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::{NodeProto, StringStringEntryProto};

    use super::*;

    fn tensor(data_type: i32, dims: &[i64], raw: &[u8]) -> TensorProto {
        let (dims, raw_data) = (dims.to_vec(), raw.to_vec());
        TensorProto { name: "t".into(), data_type, dims, raw_data, ..TensorProto::default() }
    }

    fn refused(tensor: TensorProto, expected: &str) {
        let graph = GraphProto { initializer: vec![tensor], ..GraphProto::default() };
        let found = check(&graph, 0, &mut 0).unwrap_err();
        assert!(found.contains(expected), "{found}");
    }

    #[test]
    fn a_tensor_has_the_values_that_its_shape_states() {
        let sound = GraphProto {
            initializer: vec![tensor(1, &[2, 1], &[0; 8]), tensor(7, &[], &[0; 8])],
            ..GraphProto::default()
        };
        assert_eq!(check(&sound, 0, &mut 0), Ok(()));
        refused(tensor(1, &[3, 1], &[0; 8]), "has the shape [3, 1], but 2 values");
        refused(tensor(1, &[i64::MAX, i64::MAX], &[0; 8]), "but 2 values");
        refused(tensor(1, &[-2, -1], &[0; 8]), "but 2 values");
        refused(tensor(1, &[2], &[0; 7]), "of a type that is not supported");
        refused(tensor(8, &[1], &[]), "of a type that is not supported");
        refused(tensor(99, &[1], &[0]), "of a type that is not supported");
    }

    #[test]
    fn no_other_file_is_opened() {
        let place = StringStringEntryProto { key: "location".into(), value: "weights".into() };
        let external_data = vec![place];
        refused(TensorProto { external_data, ..tensor(1, &[1], &[]) }, "lies in another file");
    }

    #[test]
    fn graphs_in_graphs_are_counted() {
        let mut graph = GraphProto::default();
        for _ in 0..=DEPTH_MAX {
            let attribute = AttributeProto { g: Some(graph), ..AttributeProto::default() };
            let node = NodeProto { attribute: vec![attribute], ..NodeProto::default() };
            graph = GraphProto { node: vec![node], ..GraphProto::default() };
        }
        assert!(check(&graph, 0, &mut 0).unwrap_err().contains("nested deeper"));
        let many =
            GraphProto { node: vec![NodeProto::default(); NODES_MAX + 1], ..GraphProto::default() };
        assert!(check(&many, 0, &mut 0).unwrap_err().contains("more than 100000 nodes"));
    }

    #[test]
    fn a_panic_of_the_reader_is_an_error() {
        let found: Result<(), _> = guarded(|| panic!("asked for"));
        assert!(found.unwrap_err().contains("a defect of its own"));
    }
}
