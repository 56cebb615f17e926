//! The accuracy report as one page that needs nothing else.

use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use snapc_ir::Result;

use super::accuracy::{Accuracy, LayerLoss};
use super::pictures::{Strip, TIMES, png};
use crate::manifest::Manifest;

/// The most prompts whose pictures are shown: the worst ones.
const STRIPS: usize = 12;

const STYLE: &str = "\
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1a1a1a;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #e3e3e3;vertical-align:middle}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.bar{display:inline-block;height:.7rem;background:#3b6fb6;min-width:1px;vertical-align:middle}
.bar.loss{background:#c4543a}td.w{width:30%}
.strip{display:flex;gap:1rem;align-items:center;margin:.6rem 0}.strip img{width:480px;max-width:60%;image-rendering:pixelated;border:1px solid #ddd}
.key{color:#555}code{font-size:.92em}";

/// The page. Strips are `f32 | as written | difference`.
///
/// # Errors
/// If a picture cannot be encoded.
pub fn html(manifest: &Manifest, accuracy: &Accuracy, strips: &[Strip]) -> Result<String> {
    let options = &manifest.options;
    let network = options.subnet.clone().unwrap_or_else(|| format!("width {}", options.width));
    let title = format!("{network} for {}: what was lost", options.target);
    let mut page = Page::new(&title);
    page.summary(manifest, accuracy);
    page.parts(manifest);
    page.steps(accuracy);
    page.layers(&accuracy.layers);
    page.strips(strips)?;
    Ok(page.finish())
}

struct Page(String);

impl Page {
    fn new(title: &str) -> Self {
        let title = escape(title);
        Page(format!(
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n\
             <title>{title}</title>\n<style>\n{STYLE}\n</style>\n<h1>{title}</h1>\n"
        ))
    }

    fn line(&mut self, text: std::fmt::Arguments) {
        // Writing into a String cannot fail.
        let _ = self.0.write_fmt(text);
        self.0.push('\n');
    }

    fn finish(mut self) -> String {
        self.line(format_args!("</html>"));
        self.0
    }

    fn summary(&mut self, manifest: &Manifest, accuracy: &Accuracy) {
        self.line(format_args!(
            "<p>Pictures against the pipeline in f32, same prompts and seeds: <b>{:.2} dB</b> PSNR in the mean of {} prompts.</p>",
            accuracy.psnr,
            accuracy.pictures.len()
        ));
        if let Some(worst) = accuracy.worst_picture() {
            self.line(format_args!(
                "<p>Worst prompt: {:.2} dB, <q>{}</q>.</p>",
                worst.psnr,
                escape(&worst.prompt)
            ));
        }
        if let Some(worst) = accuracy.worst_layer() {
            self.line(format_args!(
                "<p>Layer that is most off: <code>{}</code> ({}), {:.4} relative.</p>",
                escape(&worst.tensor),
                escape(&worst.encoding),
                worst.worst()
            ));
        }
        self.line(format_args!("<p class=\"key\">snapc {}</p>", escape(&manifest.snapc)));
    }

    fn parts(&mut self, manifest: &Manifest) {
        self.line(format_args!("<h2>Bytes by part</h2>\n<table><tr><th>part<th class=n>parameters<th class=n>bytes of weights<th class=n>bits a parameter<th>"));
        let most = manifest.parts.iter().map(|part| part.weight_bytes).max().unwrap_or(1).max(1);
        for part in &manifest.parts {
            let bits = 8.0 * part.weight_bytes as f64 / part.parameters.max(1) as f64;
            self.line(format_args!(
                "<tr><td>{}<td class=n>{}<td class=n>{}<td class=n>{bits:.2}<td class=w>{}",
                escape(&part.part),
                part.parameters,
                part.weight_bytes,
                bar("bar", part.weight_bytes as f64 / most as f64)
            ));
        }
        self.line(format_args!("</table>"));
    }

    fn steps(&mut self, accuracy: &Accuracy) {
        self.line(format_args!("<h2>Loss by part and step</h2>\n<p class=\"key\">Each run gets what the f32 pipeline gives it; the worst of all prompts.</p>\n<table><tr><th>part<th class=n>step<th class=n>cosine<th class=n>relative error<th>"));
        let most = accuracy.steps.iter().map(|loss| loss.relative).fold(f64::MIN_POSITIVE, f64::max);
        for loss in &accuracy.steps {
            let step = loss.step.map_or(String::new(), |step| step.to_string());
            self.line(format_args!(
                "<tr><td>{}<td class=n>{step}<td class=n>{:.6}<td class=n>{:.3e}<td class=w>{}",
                escape(&loss.part),
                loss.cosine,
                loss.relative,
                bar("bar loss", loss.relative / most)
            ));
        }
        self.line(format_args!("</table>"));
    }

    fn layers(&mut self, layers: &[LayerLoss]) {
        if layers.is_empty() {
            return;
        }
        let steps = layers.iter().map(|layer| layer.relative.len()).max().unwrap_or(0);
        let heads: String = (1..=steps).map(|step| format!("<th class=n>step {step}")).collect();
        self.line(format_args!("<h2>Bytes and loss by layer</h2>\n<p class=\"key\">Relative error of a layer's result, all layers before it quantized too; first prompt, sampled rows.</p>\n<table><tr><th>layer<th>stored as<th class=n>bytes<th class=n>bits<th>{heads}<th>"));
        let bytes = layers.iter().map(|layer| layer.bytes).max().unwrap_or(1).max(1);
        let most = layers.iter().map(LayerLoss::worst).fold(f64::MIN_POSITIVE, f64::max);
        for layer in layers {
            let cells: String = (0..steps)
                .map(|step| {
                    layer
                        .relative
                        .get(step)
                        .map_or("<td>".to_string(), |loss| format!("<td class=n>{loss:.4}"))
                })
                .collect();
            self.line(format_args!(
                "<tr><td><code>{}</code><td>{}<td class=n>{}<td class=n>{:.2}<td style=\"width:10%\">{}{cells}<td style=\"width:14%\">{}",
                escape(&layer.tensor),
                escape(&layer.encoding),
                layer.bytes,
                layer.bits,
                bar("bar", layer.bytes as f64 / bytes as f64),
                bar("bar loss", layer.worst() / most)
            ));
        }
        self.line(format_args!("</table>"));
    }

    fn strips(&mut self, strips: &[Strip]) -> Result<()> {
        let mut worst: Vec<&Strip> = strips.iter().collect();
        worst.sort_by(|a, b| a.psnr.total_cmp(&b.psnr));
        worst.truncate(STRIPS);
        self.line(format_args!("<h2>Pictures, the worst first</h2>\n<p class=\"key\">f32 | as written | difference x {TIMES} around grey</p>"));
        for strip in worst {
            let bytes = STANDARD.encode(png(std::slice::from_ref(strip))?);
            let prompt = escape(&strip.prompt);
            self.line(format_args!(
                "<div class=strip><img alt=\"{prompt}\" src=\"data:image/png;base64,{bytes}\"><div>{prompt}<br><span class=\"key\">{:.2} dB</span></div></div>",
                strip.psnr
            ));
        }
        Ok(())
    }
}

fn bar(class: &str, share: f64) -> String {
    format!("<span class=\"{class}\" style=\"width:{:.1}%\"></span>", 100.0 * share.clamp(0.0, 1.0))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
