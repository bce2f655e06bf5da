//! What cuts text into tokens, by container.

use crate::hugging_face::HuggingFace;
use crate::sentencepiece::SentencePiece;
use crate::tekken::Tekken;

/// One way of cutting.
#[derive(Debug)]
pub(crate) enum Cutter {
    SentencePiece(SentencePiece),
    Tekken(Tekken),
    HuggingFace(Box<HuggingFace>),
}
