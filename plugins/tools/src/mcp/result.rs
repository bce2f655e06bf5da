//! From what a tool gave back to the text that the model reads.

use protocol::ToolError;
use rmcp::model::{CallToolResponse, CallToolResult, ContentBlock, ResourceContents};
use serde_json::{Value, json};

const LEFT_OUT: &str = "[left out: only text can be read]";

/// What the model reads: the structured result if there is one, else the text, as JSON.
pub(super) fn read(response: CallToolResponse) -> Result<String, ToolError> {
    match response {
        CallToolResponse::Complete(result) => complete(&result),
        CallToolResponse::InputRequired(_) => {
            Err(ToolError("the tool asks for input that nobody here can give".into()))
        }
        CallToolResponse::Task(_) => {
            Err(ToolError("the tool answers later, which is not supported".into()))
        }
        _ => Err(ToolError("the tool answers in a way that is not supported".into())),
    }
}

fn complete(result: &CallToolResult) -> Result<String, ToolError> {
    let text = || result.content.iter().map(block).collect::<Vec<_>>().join("\n");
    if result.is_error == Some(true) {
        let message = text();
        return Err(ToolError(match message.is_empty() {
            true => "the tool failed and did not say why".into(),
            false => message,
        }));
    }
    if let Some(value) = &result.structured_content {
        return Ok(value.to_string());
    }
    let text = text();
    match serde_json::from_str(&text) {
        // Most servers write structure as text; told as a text in a text, it would be escaped.
        Ok(value @ (Value::Object(_) | Value::Array(_))) => Ok(value.to_string()),
        _ => Ok(json!({ "result": text }).to_string()),
    }
}

/// The model reads text; of everything else it is told that it was there.
fn block(block: &ContentBlock) -> String {
    match block {
        ContentBlock::Text(text) => text.text.clone(),
        ContentBlock::Image(image) => absent(&image.mime_type, image.data.len()),
        ContentBlock::Audio(audio) => absent(&audio.mime_type, audio.data.len()),
        ContentBlock::Resource(resource) => match &resource.resource {
            ResourceContents::TextResourceContents { text, .. } => text.clone(),
            ResourceContents::BlobResourceContents { mime_type, blob, .. } => {
                absent(mime_type.as_deref().unwrap_or("data"), blob.len())
            }
            _ => LEFT_OUT.into(),
        },
        ContentBlock::ResourceLink(link) => format!("[a link to {}: {}]", link.name, link.uri),
        _ => LEFT_OUT.into(),
    }
}

fn absent(kind: &str, base64_bytes: usize) -> String {
    let kind: String = kind.chars().take(64).collect();
    format!("[left out: {kind}, {} bytes; only text can be read]", base64_bytes / 4 * 3)
}
