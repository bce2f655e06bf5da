//! Limits that keep the house readable, and the arrows between its rooms.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::root;

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exceptions {
    files: BTreeMap<String, String>,
    functions: BTreeMap<String, String>,
}

/// Checks the lengths of files and functions, the folders of the top level, and that files named
/// in the documents exist.
pub(crate) fn tidy() -> Result<()> {
    let root = root();
    let exceptions: Exceptions =
        toml::from_str(&std::fs::read_to_string(root.join("tests/xtask/tidy.toml"))?)?;
    let mut found = Vec::new();
    for path in tracked(&root)? {
        let name = path.to_string_lossy().replace('\\', "/");
        if name.ends_with(".rs") {
            let source = std::fs::read_to_string(root.join(&path))
                .with_context(|| format!("cannot read {name}"))?;
            lengths(&name, &source, &exceptions, &mut found);
        } else if name.ends_with(".md") {
            let text = std::fs::read_to_string(root.join(&path))?;
            dead_names(&root, &name, &text, &mut found);
        }
    }
    if !found.is_empty() {
        bail!("tidy:\n  {}", found.join("\n  "));
    }
    Ok(())
}

fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("cannot list files with git")?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .split('\0')
        .filter(|name| !name.is_empty() && root.join(name).is_file())
        .map(PathBuf::from)
        .collect())
}

fn lengths(name: &str, source: &str, exceptions: &Exceptions, found: &mut Vec<String>) {
    let lines: Vec<&str> = source.lines().collect();
    let code = lines.iter().position(|line| *line == "#[cfg(test)]").unwrap_or(lines.len());
    let is_test = name.contains("/tests/") || name.starts_with("tests/suite");
    if code > FILE_LINES_MAX && !is_test && !exceptions.files.contains_key(name) {
        found.push(format!(
            "{name}: {code} lines of code, {FILE_LINES_MAX} allowed; split it by what it hides, \
             or state the reason in tidy.toml"
        ));
    }
    for (function, first, length) in functions(&lines[..code]) {
        let key = format!("{name}::{function}");
        if length > FUNCTION_LINES_MAX && !is_test && !exceptions.functions.contains_key(&key) {
            found.push(format!(
                "{name}:{first}: {function} has {length} lines, {FUNCTION_LINES_MAX} allowed"
            ));
        }
    }
}

/// Name, first line and length of every function in formatted source: it ends at the brace that
/// stands under its first word.
fn functions<'a>(lines: &[&'a str]) -> Vec<(&'a str, usize, usize)> {
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let body = line.trim_start();
        let indent = line.len() - body.len();
        let Some(at) = body.find("fn ") else { continue };
        let words_before = &body[..at];
        if body.starts_with("//") || !words_before.split_whitespace().all(is_qualifier) {
            continue;
        }
        let name = body[at + 3..].split(['(', '<']).next().unwrap_or_default();
        let closing = lines[first..]
            .iter()
            .position(|line| line.len() == indent + 1 && line.trim_start() == "}");
        if line.trim_end().ends_with(['}', ';']) {
            continue;
        }
        if let Some(length) = closing {
            found.push((name, first + 1, length + 1));
        }
    }
    found
}

fn is_qualifier(word: &str) -> bool {
    matches!(word, "pub" | "const" | "async" | "unsafe" | "extern" | "\"C\"")
        || word.starts_with("pub(")
}

/// Paths in backticks that end in a file name and do not exist.
fn dead_names(root: &Path, name: &str, text: &str, found: &mut Vec<String>) {
    let folder = Path::new(name).parent().unwrap_or_else(|| Path::new(""));
    for (number, line) in text.lines().enumerate() {
        for word in line.split('`').skip(1).step_by(2) {
            let is_path = word.contains('/')
                && word.rsplit_once('.').is_some_and(|(_, end)| {
                    matches!(end, "rs" | "toml" | "md" | "h" | "hpp" | "c" | "cpp" | "py")
                })
                && !word.contains(|c: char| c.is_whitespace() || "*{}<>$~:…".contains(c))
                && !word.starts_with('/');
            if is_path && !root.join(word).exists() && !root.join(folder).join(word).exists() {
                found.push(format!("{name}:{}: names {word}, which is not there", number + 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Workspace {
        workspace: Members,
    }

    #[derive(Deserialize)]
    struct Members {
        members: Vec<String>,
    }

    /// The names of our own crates that a manifest's table depends on.
    fn edges(manifest: &toml::Table, table: &str, ours: &[String]) -> Vec<String> {
        let plain = manifest.get(table).and_then(|t| t.as_table()).into_iter();
        let by_target = manifest
            .get("target")
            .and_then(|t| t.as_table())
            .into_iter()
            .flat_map(|targets| targets.values())
            .filter_map(|target| target.get(table)?.as_table());
        plain
            .chain(by_target)
            .flat_map(|dependencies| dependencies.keys())
            .filter(|name| ours.contains(name))
            .cloned()
            .collect()
    }

    #[test]
    fn every_edge_between_crates_is_an_allowed_arrow() {
        let root = root();
        let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
        let workspace: Workspace = toml::from_str(&read("Cargo.toml")).unwrap();
        let arrows: BTreeMap<String, Vec<String>> =
            toml::from_str(&read("tests/xtask/arrows.toml")).unwrap();
        let manifests: Vec<(String, toml::Table)> = workspace
            .workspace
            .members
            .iter()
            .map(|member| {
                let manifest: toml::Table =
                    toml::from_str(&read(&format!("{member}/Cargo.toml"))).unwrap();
                let name = manifest["package"]["name"].as_str().unwrap().to_owned();
                assert!(member.ends_with(&name), "{member} holds a crate of another name: {name}");
                (name, manifest)
            })
            .collect();
        let ours: Vec<String> = manifests.iter().map(|(name, _)| name.clone()).collect();
        let mut edges_seen = 0;
        for (name, manifest) in &manifests {
            let allowed = &arrows[name];
            for to in ["dependencies", "build-dependencies"]
                .iter()
                .flat_map(|table| edges(manifest, table, &ours))
            {
                edges_seen += 1;
                assert!(
                    allowed.contains(&to) || allowed.contains(&"*".to_owned()),
                    "{name} must not depend on {to}: see tests/xtask/arrows.toml"
                );
            }
        }
        assert!(edges_seen > 20, "only {edges_seen} edges were read");
        assert!(arrows.keys().all(|name| ours.contains(name)), "an arrow names no crate");
    }

    #[test]
    fn functions_are_measured_to_their_closing_brace() {
        let source = "pub(crate) fn a() {\n    b();\n}\n\nimpl X {\n    async fn c(\n    ) {\n    }\n    fn d() {}\n}\n";
        let lines: Vec<&str> = source.lines().collect();
        assert_eq!(functions(&lines), [("a", 1, 3), ("c", 6, 3)]);
    }

    #[test]
    fn a_long_function_without_a_reason_is_found() {
        let body = "    x();\n".repeat(80);
        let source = format!("fn long() {{\n{body}}}\n");
        let exceptions = Exceptions { files: BTreeMap::new(), functions: BTreeMap::new() };
        let mut found = Vec::new();
        lengths("a/src/b.rs", &source, &exceptions, &mut found);
        assert_eq!(found.len(), 1);
    }
}
