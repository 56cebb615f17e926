//! Plans and differences as text.

use serde_json::Value;
use snapc_driver::{Change, Differences, PartPlan, Passed, Plan, UseEntry, Why};

use crate::report::mega;

/// Findings of one kind that are shown; `--json` has all.
const SHOWN: usize = 10;

/// What a compile would write.
pub fn planned(plans: &[Plan]) -> String {
    let mut text = String::new();
    for Plan { folder, options, parts, weight_bytes, passed, notes, .. } in plans {
        let [rows, cols] = options.size;
        text += &format!(
            "{} ({}, {rows} x {cols} pixels, bake {}, for {}): {} of weights\n",
            folder.display(),
            options.precision,
            options.bake,
            options.device,
            mega(*weight_bytes)
        );
        parts.iter().for_each(|part| text += &part_text(part));
        text += &refusals(passed);
        notes.iter().for_each(|note| text += &format!("  note: {note}\n"));
    }
    text
}

fn part_text(part: &PartPlan) -> String {
    let mut text = match &part.entry {
        None => format!("  {}\n", part.name),
        Some(entry) => {
            let types: Vec<String> =
                entry.weight_types.iter().map(|(word, bytes)| format!("{word} {}", mega(*bytes))).collect();
            let memory = &entry.memory;
            let place = if memory.at.is_empty() { String::new() } else { format!(" at {}", memory.at) };
            format!(
                "  {}: {} parameters, {} ({}), {} ops, {:.1} MFLOP a run\n    a run holds at most {}: weights and {} of values{place}\n",
                part.name,
                entry.parameters,
                mega(entry.weight_bytes),
                types.join(", "),
                entry.ops,
                entry.flops as f64 / 1e6,
                mega(memory.peak_bytes),
                mega(memory.value_bytes),
            )
        }
    };
    for UseEntry { holder, unit, found, most, source } in &part.limits {
        let past = if found > most { format!(": PASSED ({source})") } else { String::new() };
        text += &format!("    {holder}: {found} of {most} {unit}{past}\n");
    }
    for Why { op, count, first, reason } in &part.not_native {
        text += &format!("    {op} x {count} (first at {first}): {reason}\n");
    }
    text + &refusals(&part.passed)
}

fn refusals(passed: &[Passed]) -> String {
    let mut text = String::new();
    for Passed { message, places, help } in passed.iter().take(SHOWN) {
        text += &format!("    REFUSED: {}\n", [&[message.clone()][..], places].concat().join("; "));
        help.iter().for_each(|help| text += &format!("      help: {help}\n"));
    }
    let more = passed.len().saturating_sub(SHOWN);
    if more > 0 {
        text += &format!("    and {more} more\n");
    }
    text
}

/// The beginning of a value that is long; `--json` has all of it.
fn cut(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text.to_string(),
    }
}

/// What changed between two outputs.
pub fn differences(found: &Differences) -> String {
    let mut text = String::new();
    for (section, changes) in found.sections() {
        text += &format!("{section}\n");
        for Change { field, a, b, .. } in changes {
            let name = if field.is_empty() { section } else { field };
            let word = |value: &Option<Value>| match value {
                None => "nothing".to_string(),
                Some(Value::String(text)) => cut(text),
                Some(value) => cut(&value.to_string()),
            };
            let share = match (a.as_ref().and_then(|a| a.as_f64()), b.as_ref().and_then(|b| b.as_f64())) {
                (Some(a), Some(b)) if a != 0.0 => format!("  ({:+.2} %)", 100.0 * (b / a - 1.0)),
                _ => String::new(),
            };
            text += &format!("  {name}: {} -> {}{share}\n", word(a), word(b));
        }
    }
    text
}
