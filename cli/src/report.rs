//! Progress and warnings on standard error, results on standard output.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use snapc_driver::{
    Accuracy, Compiled, Explanation, Generated, Inspection, NodeRange, PartEntry, PartRanges, Report,
    StepLoss, Verified,
};
use snapc_ir::{Class, Error, shape_text};

/// Shows progress where standard error is a terminal, and warnings always; with JSON, warnings are kept for the result.
pub struct Terminal {
    json: bool,
    bar: ProgressBar,
    /// The warnings so far.
    pub warnings: Vec<String>,
}

impl Terminal {
    /// A report for text or for JSON.
    pub fn new(json: bool) -> Self {
        Terminal { json, bar: ProgressBar::hidden(), warnings: Vec::new() }
    }

    /// Takes the progress bar away.
    pub fn finish(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Report for Terminal {
    fn begin(&mut self, what: &str, total: u64) {
        self.bar.finish_and_clear();
        if self.json {
            return;
        }
        self.bar = ProgressBar::new(total);
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {percent}% {elapsed}") {
            self.bar.set_style(style);
        }
        self.bar.set_message(what.to_string());
        self.bar.enable_steady_tick(Duration::from_millis(200));
    }

    fn advance(&mut self, units: u64) {
        self.bar.inc(units);
    }

    fn warn(&mut self, message: &str) {
        self.warnings.push(message.to_string());
        if !self.json {
            self.bar.suspend(|| eprintln!("warning: {message}"));
        }
    }
}

/// Writes to standard output. A reader that has gone (`| head`) is no error.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes one JSON object.
pub fn print_json(value: &Value) {
    print(&format!("{value:#}\n"));
}

/// Reports an error and gives the exit code of its class.
pub fn fail(error: &Error, json: bool) -> u8 {
    let (name, code) = match error.class() {
        Class::Verification => ("verification", 1),
        Class::Usage => ("usage", 2),
        Class::Input => ("input", 3),
        Class::Limit => ("limit", 4),
        Class::Internal => ("internal", 70),
    };
    if json {
        let places: Vec<String> = error.places().iter().map(ToString::to_string).collect();
        let body =
            json!({"class": name, "message": error.message(), "places": places, "help": error.help_text()});
        eprintln!("{:#}", json!({"error": body}));
    } else {
        eprintln!("error: {error}");
    }
    code
}

/// Bytes in megabytes.
pub fn mega(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

/// What a compile wrote; with `explain`, what was not written as it is, and why.
pub fn compiled(all: &[Compiled], explain: bool) -> String {
    let mut text = String::new();
    for Compiled { folder, manifest, explanations, ranges, accuracy } in all {
        text += &format!("{}\n", folder.display());
        let names: Vec<String> = manifest.parts.iter().map(artifact).collect();
        let wide = names.iter().map(String::len).fold(24, usize::max);
        for (part, artifact) in manifest.parts.iter().zip(&names) {
            let (bytes, ops) = (mega(part.weight_bytes), part.ops);
            text +=
                &format!("  {artifact:<wide$} {:>12} parameters {bytes:>12} {ops:>6} ops\n", part.parameters);
            let name = part.signature.as_ref().unwrap_or(&part.part);
            let known = explanations.iter().filter(|(of, _)| explain && of == name);
            for why in known.flat_map(|(_, list)| list) {
                let Explanation { op, reason, count, first } = why;
                text += &format!("    {op} x {count} (first at {first}): {reason}\n");
            }
            let measured = ranges.iter().filter(|of| explain && of.part == part.part);
            measured.for_each(|of| text += &hottest(of));
        }
        text += &accuracy.as_ref().map_or(String::new(), lost);
    }
    text
}

/// What quantizing lost.
pub fn lost(accuracy: &Accuracy) -> String {
    let mut text = format!("  {:<24} {:>10} {:>12}\n", "lost, against f32", "cosine", "relative");
    for StepLoss { part, step, cosine, relative } in &accuracy.steps {
        let name = step.map_or(part.clone(), |step| format!("{part}, step {step}"));
        text += &format!("  {name:<24} {cosine:>10.6} {relative:>12.3e}\n");
    }
    let count = accuracy.pictures.len();
    text += &format!("  pictures: {:.2} dB PSNR, the mean of {count} prompts", accuracy.psnr);
    if let Some(worst) = accuracy.worst_picture() {
        text += &format!("; worst {:.2} dB, {:?}", worst.psnr, worst.prompt);
    }
    if let Some(worst) = accuracy.worst_layer() {
        text += &format!("; layer most off {} ({}), {:.4}", worst.tensor, worst.encoding, worst.worst());
    }
    text + "\n"
}

/// The nodes whose values came closest to the end of f16.
fn hottest(ranges: &PartRanges) -> String {
    const SHOWN: usize = 5;
    let mut text = "    largest values measured, of f16's 65504:\n".to_string();
    for NodeRange { path, op, largest, share } in ranges.nodes.iter().take(SHOWN) {
        text += &format!("      {largest:>9.3e} {:>8.3} %  {op} at {path}\n", share * 100.0);
    }
    text
}

/// The name of the file or folder, and of the signature where it is a file of several.
fn artifact(part: &PartEntry) -> String {
    let signature = part.signature.as_ref().map(|signature| format!(" {signature}"));
    format!("{}{}", part.artifact, signature.unwrap_or_default())
}

/// What a compile wrote, as JSON.
pub fn compiled_json(all: &[Compiled], warnings: &[String]) -> Value {
    let explained = |Explanation { op, reason, count, first }: &Explanation| json!({"op": op, "count": count, "first": first, "reason": reason});
    let folders: Vec<Value> = all
        .iter()
        .map(|compiled| {
            let parts: serde_json::Map<String, Value> = compiled
                .explanations
                .iter()
                .map(|(part, list)| (part.clone(), list.iter().map(explained).collect()))
                .collect();
            let ranges: serde_json::Map<String, Value> =
                compiled.ranges.iter().map(|of| (of.part.clone(), json!(of.nodes))).collect();
            json!({"folder": compiled.folder, "manifest": compiled.manifest, "expanded": parts, "ranges": ranges})
        })
        .collect();
    json!({"outputs": folders, "warnings": warnings})
}

/// What a run did, as JSON.
pub fn generated_json(generated: &Generated, output: &std::path::Path, warnings: &[String]) -> Value {
    json!({
        "output": output,
        "height": generated.size[0],
        "width": generated.size[1],
        "network_width": generated.width,
        "sigmas": generated.schedule.sigmas,
        "truncated": generated.cut,
        "warnings": warnings,
    })
}

/// The table of a verification.
pub fn verified(all: &[Verified]) -> String {
    let mut text = String::new();
    for Verified { folder, precision, thresholds, rows, accuracy, .. } in all {
        text += &format!(
            "{} ({precision}: relative error <= {:e} a part, picture >= {} dB)\n",
            folder.display(),
            thresholds.relative,
            thresholds.psnr
        );
        let wide = rows.iter().map(|row| row.part.len()).fold(13, usize::max);
        text += &format!(
            "  {:<wide$} {:<32} {:>10} {:>10} {:>9}  verdict\n",
            "part", "run by", "max abs", "relative", "PSNR dB"
        );
        for row in rows {
            let psnr = row.psnr.map_or("-".to_string(), |psnr| format!("{psnr:.1}"));
            let verdict = if row.passed { "ok" } else { "FAILED" };
            text += &format!(
                "  {:<wide$} {:<32} {:>10.2e} {:>10.2e} {psnr:>9}  {verdict}\n",
                row.part, row.run_by, row.max_abs, row.relative
            );
        }
        text += &accuracy.as_ref().map_or(String::new(), lost);
    }
    text
}

/// What an inspection found.
pub fn inspection(found: &Inspection) -> String {
    match found {
        Inspection::Pipeline { subnets, size, tokens, schedule, parts, ignored } => {
            let subnets: Vec<String> =
                subnets.iter().map(|(name, width)| format!("{name} {width}")).collect();
            let sigmas: Vec<String> = schedule.sigmas.iter().map(f32::to_string).collect();
            let distilled = if schedule.distilled { ", distilled" } else { "" };
            let mut text = format!(
                "pipeline: pictures of {} x {} pixels, texts of {tokens} tokens\nsubnets: {}\nsigmas ({}{distilled}): {}\n",
                size[0],
                size[1],
                subnets.join(", "),
                schedule.rule,
                sigmas.join(" "),
            );
            parts.iter().for_each(|part| text += &summary(part));
            text + &not_read(ignored)
        }
        Inspection::Safetensors { tensors, parameters, bytes } => {
            let mut text = String::new();
            for tensor in tensors {
                text += &format!("{:<5}{:<20} {}\n", tensor.dtype, shape_text(&tensor.shape), tensor.name);
            }
            text + &format!("{} tensors, {parameters} parameters, {}\n", tensors.len(), mega(*bytes))
        }
        Inspection::Bundle(bundle) => crate::report_bundle::bundled(std::path::Path::new("bundle"), bundle),
        Inspection::File { target, parts } => {
            let parts: String = parts.iter().map(summary).collect();
            format!("{target} file\n{parts}")
        }
        Inspection::Package { target, part } => format!("{target} package\n{}", summary(part)),
    }
}

/// Tensors that nothing reads, counted by the first word of their names; `--json` has the names.
fn not_read(ignored: &[String]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for name in ignored {
        *counts.entry(name.split('.').next().unwrap_or(name)).or_default() += 1;
    }
    let groups: Vec<String> = counts.iter().map(|(word, count)| format!("{word}.* ({count})")).collect();
    if groups.is_empty() { String::new() } else { format!("not read: {}\n", groups.join(", ")) }
}

fn summary(part: &snapc_driver::PartSummary) -> String {
    let subnet = part.subnet.as_ref().map(|subnet| format!(" {subnet}")).unwrap_or_default();
    let signature = part.signature.as_ref().map(|key| format!(", signature {key}")).unwrap_or_default();
    let mut text = format!(
        "{}{subnet}{signature}: {} parameters, {}, {} ops, {:.1} MFLOP a run\n",
        part.part,
        part.parameters,
        mega(part.bytes),
        part.ops,
        part.flops as f64 / 1e6
    );
    for (word, ports) in [("in ", &part.inputs), ("out", &part.outputs)] {
        for port in ports {
            text += &format!("  {word} {:<12} {}{}\n", port.name, port.dtype, shape_text(&port.shape));
        }
    }
    text
}
