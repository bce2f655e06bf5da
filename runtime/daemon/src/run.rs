//! `zonda run` and `zonda chat`: answers in this terminal.

use std::io::{BufRead, IsTerminal, Read, Write};

use chat_json::{Answer, Chat, Strictness, parse_chat};
use firmware_config::Profile;
use protocol::{Event, Fault, FinishReason, Input, Message, Request, RequestId, Service};
use serde_json::json;

use crate::assemble::House;
use crate::cli;
use crate::error::AssembleError;
use crate::model_files::ModelFiles;

/// Largest request file, in bytes; as much as the HTTP API takes by default.
const REQUEST_BYTES_MAX: u64 = 4 << 20;

/// Answers one prompt or one request file on `output`.
pub(crate) fn run(
    profile: &Profile,
    model: &ModelFiles,
    arguments: &cli::Run,
    output: &mut dyn Write,
) -> Result<(), AssembleError> {
    // A request that cannot be read is said before a model is loaded for it.
    let mut chat = parse_chat(&body(arguments)?, RequestId("run".into()), Strictness::Lenient)?;
    chat.check_single()?;
    arguments.drawing.apply(&mut chat.request);
    if arguments.raw {
        chat.request.input = Input::Text(arguments.prompt.clone().unwrap_or_default());
    }
    let house = House::build(profile, model, &mut crate::progress::bar("loading"))?;
    let mut text: &mut dyn Write = output;
    let mut unseen = std::io::sink();
    if arguments.json {
        text = &mut unseen;
    }
    let answer = follow(house.service().as_ref(), &chat, text)?;
    if arguments.json {
        serde_json::to_writer(&mut *output, &answer.completion()).map_err(std::io::Error::from)?;
    }
    writeln!(output)?;
    Ok(output.flush()?)
}

/// The request as the one JSON door reads it.
fn body(arguments: &cli::Run) -> Result<Vec<u8>, AssembleError> {
    let Some(file) = &arguments.request else {
        let messages = json!([{ "role": "user", "content": arguments.prompt }]);
        return Ok(json!({ "model": "default", "messages": messages }).to_string().into_bytes());
    };
    let mut body = Vec::new();
    let source: Box<dyn Read> = if file.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(file).map_err(|error| AssembleError::Input {
            message: format!("cannot read {}: {error}", file.display()),
        })?)
    };
    source.take(REQUEST_BYTES_MAX + 1).read_to_end(&mut body)?;
    if body.len() as u64 > REQUEST_BYTES_MAX {
        return Err(AssembleError::Input {
            message: format!("{} is larger than {REQUEST_BYTES_MAX} bytes", file.display()),
        });
    }
    Ok(body)
}

impl cli::Drawing {
    /// Flags win over what the request says.
    fn apply(&self, request: &mut Request) {
        request.limits.max_tokens = self.max_tokens.or(request.limits.max_tokens);
        request.sampling.temperature = self.temperature.or(request.sampling.temperature);
        request.sampling.seed = self.seed.or(request.sampling.seed);
    }
}

/// Submits a request and writes its text as it comes.
fn follow(
    service: &dyn Service,
    chat: &Chat,
    output: &mut dyn Write,
) -> Result<Answer, AssembleError> {
    let mut reply = service.submit(chat.request.clone())?;
    let mut answer = Answer::new(chat, crate::unix_now());
    while let Some(event) = reply.recv() {
        answer.push(&event);
        match event {
            Event::Text { text, .. } => {
                output.write_all(text.as_bytes())?;
                output.flush()?;
            }
            Event::ToolCall(call) => {
                let call = json!({ "name": call.name, "arguments": call.arguments, "id": call.id });
                writeln!(output, "{call}")?;
            }
            Event::Failed(fault) => return Err(fault.into()),
            Event::Accepted { .. }
            | Event::Reused(_)
            | Event::Scores(_)
            | Event::Finished { .. } => {}
        }
    }
    Ok(answer)
}

/// Talks until the input ends; `/new` forgets the conversation.
pub(crate) fn chat(
    profile: &Profile,
    model: &ModelFiles,
    arguments: &cli::Chat,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> Result<(), AssembleError> {
    let house = House::build(profile, model, &mut crate::progress::bar("loading"))?;
    let person = std::io::stdin().is_terminal();
    if person {
        writeln!(
            output,
            "{} on {}. /new starts again, Ctrl-D ends.",
            house.card().id,
            house.device()
        )?;
    }
    let mut conversation = Conversation::new(arguments);
    let mut line = String::new();
    loop {
        if person {
            write!(output, "> ")?;
            output.flush()?;
        }
        line.clear();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        match line.trim() {
            "" => {}
            "/new" => conversation = Conversation::new(arguments),
            words => match conversation.say(house.service().as_ref(), words, output) {
                Ok(()) => writeln!(output)?,
                // The conversation goes on without the turn that failed.
                Err(AssembleError::Fault(fault)) => writeln!(output, "! {fault}")?,
                Err(other) => return Err(other),
            },
        }
    }
}

struct Conversation<'a> {
    arguments: &'a cli::Chat,
    messages: Vec<Message>,
}

impl<'a> Conversation<'a> {
    fn new(arguments: &'a cli::Chat) -> Self {
        let system =
            arguments.system.iter().map(|text| Message::System { content: vec![text.clone()] });
        Self { arguments, messages: system.collect() }
    }

    fn say(
        &mut self,
        service: &dyn Service,
        words: &str,
        output: &mut dyn Write,
    ) -> Result<(), AssembleError> {
        let mut messages = self.messages.clone();
        messages.push(Message::User { content: vec![words.to_owned()] });
        let mut request = Request::new("chat", Input::Chat(messages.clone()));
        self.arguments.drawing.apply(&mut request);
        let answer = stream(service, request, output)?;
        messages.push(Message::Assistant {
            content: Some(vec![answer]),
            tool_calls: Vec::new(),
            prefix: false,
        });
        self.messages = messages;
        Ok(())
    }
}

fn stream(
    service: &dyn Service,
    request: Request,
    output: &mut dyn Write,
) -> Result<String, AssembleError> {
    let mut reply = service.submit(request)?;
    let mut answer = String::new();
    while let Some(event) = reply.recv() {
        match event {
            Event::Text { text, .. } => {
                output.write_all(text.as_bytes())?;
                output.flush()?;
                answer.push_str(&text);
            }
            Event::Failed(fault) => return Err(fault.into()),
            Event::Finished { reason: FinishReason::ToolCalls, .. } => {
                return Err(Fault::bad_request(
                    "the model called a function that this terminal does not have",
                )
                .into());
            }
            _ => {}
        }
    }
    Ok(answer)
}
