//! Small networks in ONNX beside the model: embeddings, classifiers, detectors.
#![forbid(unsafe_code)]
