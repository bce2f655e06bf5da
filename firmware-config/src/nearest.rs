//! What the writer of an unknown key may have meant.

use crate::layer::shortened;

/// Says that nobody knows `key`, and which known key comes nearest.
pub(crate) fn unknown_key(key: &str, known: &[String]) -> String {
    let shown = shortened(key);
    if let Some(section) = known.iter().find_map(|name| section_of(name).filter(|s| *s == key)) {
        return format!("{shown} is a section, not a key; write [{section}]");
    }
    if let Some(name) = nearest(key, known) {
        return format!("unknown key {shown}; did you mean {name}?");
    }
    let section = section_of(key);
    let siblings: Vec<&str> = known
        .iter()
        .filter(|name| section.is_some() && section_of(name) == section)
        .filter_map(|name| name.rsplit_once('.').map(|(_, last)| last))
        .collect();
    if let Some(section) = section
        && !siblings.is_empty()
    {
        return format!("unknown key {shown}; [{section}] has {}", siblings.join(", "));
    }
    let mut sections: Vec<&str> = known.iter().filter_map(|name| section_of(name)).collect();
    sections.dedup();
    match sections.is_empty() {
        false => format!("unknown key {shown}; sections are {}", sections.join(", ")),
        true => format!("unknown key {shown}; known are {}", known.join(", ")),
    }
}

fn section_of(key: &str) -> Option<&str> {
    key.split_once('.').map(|(section, _)| section)
}

fn nearest<'a>(key: &str, known: &'a [String]) -> Option<&'a String> {
    // Far longer texts are no misspelling, and the distance is quadratic in the length.
    const KEY_BYTES_MAX: usize = 128;
    if key.len() > KEY_BYTES_MAX {
        return None;
    }
    let errors_max = (key.len() / 4).clamp(1, 4);
    known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(key, name), name))
        .filter(|(errors, _)| *errors <= errors_max)
        .min_by_key(|(errors, _)| *errors)
        .map(|(_, name)| name)
}

/// Says that there is no such profile, and which come near.
pub(crate) fn unknown_profile(name: &str, known: &[String]) -> String {
    let shown = shortened(name);
    match nearest(name, known) {
        Some(near) => format!("there is no profile \"{shown}\"; did you mean \"{near}\"?"),
        None => format!("there is no profile \"{shown}\"; known are {}", known.join(", ")),
    }
}
