//! Files to named tensors and hyper-parameters, without a tensor library.
