//! Boxes and wishes that were put down by hand: the grammar is not asked about what it makes itself.

use anyhow::{Context as _, Result, bail};
use protocol::{Message, ToolSpec};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::language::Language;
use super::{Answer, Call, Lesson, Sort, Topics};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Field {
    boxes: Vec<Place>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    name: String,
    /// JSON, as clients of an API send it.
    tools: String,
    wishes: Vec<Wish>,
}

#[derive(Debug, Deserialize)]
struct Tool {
    name: String,
    description: String,
    parameters: Value,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    language: String,
    said: String,
    call: Option<(String, Map<String, Value>)>,
    #[serde(default)]
    asks: bool,
    #[serde(default)]
    none: bool,
}

/// All of them, in these languages.
pub(super) fn lessons(languages: &[Language]) -> Result<Vec<Lesson>> {
    let field: Field =
        toml::from_str(include_str!("../../data/field.toml")).context("data/field.toml")?;
    let mut lessons = Vec::new();
    for Place { name, tools, wishes } in field.boxes {
        let tools: Vec<Tool> = serde_json::from_str(&tools).with_context(|| name.clone())?;
        let tools = tools.into_iter().map(|Tool { name, description, parameters }| ToolSpec {
            name,
            description,
            parameters,
            strict: false,
        });
        let tools: Vec<ToolSpec> = tools.collect();
        for wish in wishes {
            let said = wish.said.clone();
            lessons
                .push(lesson(languages, &tools, wish).with_context(|| format!("{name}: {said}"))?);
        }
    }
    Ok(lessons)
}

fn lesson(languages: &[Language], tools: &[ToolSpec], wish: Wish) -> Result<Lesson> {
    let language = languages.iter().find(|language| language.code == wish.language);
    let language = language.context("no such language")?;
    let (sort, answer) = match (wish.call, wish.asks, wish.none) {
        (Some((name, arguments)), false, false) => {
            let call = Call { name, arguments };
            if !call.keeps_to(tools) {
                bail!("{call:?} is no call of these tools");
            }
            (Sort::One, Answer::Calls(vec![call]))
        }
        // Which question is not compared.
        (None, true, false) => (Sort::Lack, Answer::Text("?".into())),
        (None, false, true) => (Sort::NoTool, Answer::Text(language.talk.no_tool_answer.clone())),
        _ => bail!("a call, or asks, or none"),
    };
    Ok(Lesson {
        sort,
        asked: wish.said.clone(),
        language: wish.language,
        messages: vec![Message::User { content: vec![wish.said] }],
        tools: tools.to_vec(),
        answer,
        topics: Topics::default(),
    })
}
