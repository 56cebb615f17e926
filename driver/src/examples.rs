//! Pictures of a pipeline's own prompts: what each part was given on the way, and what it made of it.

use std::path::Path;

use snapc_frontends::Part;
use snapc_interp::TorchGenerator;
use snapc_ir::{Error, Place, Result};
use snapc_weights::Tensor;

use crate::options::Bake;
use crate::parts::{Drawn, Parts, Prompt};
use crate::walk::Walked;

/// Prompts where the pipeline folder has no `verify_prompts.txt`.
const PROMPTS: [&str; 2] = ["a red circle left of a blue square", "a photo of a cat on a chair"];

/// One part's inputs and what the pipeline makes of them.
pub struct Example {
    /// The inputs, by name.
    pub inputs: Vec<(String, Tensor)>,
    /// The output.
    pub output: Tensor,
}

/// The prompts of the pipeline's `verify_prompts.txt`, or the built-in ones.
///
/// # Errors
/// If there are none.
pub fn prompts(pipeline: &Path, count: usize) -> Result<Vec<String>> {
    let path = pipeline.join("verify_prompts.txt");
    let list: Vec<String> = match std::fs::read_to_string(&path) {
        Ok(text) => lines(&text),
        Err(_) => PROMPTS.map(str::to_string).to_vec(),
    };
    if list.is_empty() || count == 0 {
        return Err(Error::input("there are no prompts to draw")
            .at(Place::File(path))
            .help("write some into verify_prompts.txt, one a line; and ask for one at least"));
    }
    Ok(list.into_iter().take(count).collect())
}

/// The lines of a text that say something.
pub fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_string).collect()
}

/// Draws one picture and keeps what each part was given and gave: the transformer's runs as one that is baked in that way has them.
///
/// # Errors
/// What a part finds.
pub fn draw(
    parts: &Parts,
    prompt: &str,
    guidance: Option<f32>,
    seed: u64,
    bake: Bake,
    examples: &mut Vec<(Part, Example)>,
) -> Result<Drawn> {
    let mut generator = TorchGenerator::new(seed);
    let shape = parts.latent_shape.clone();
    let mut noise = || Tensor::f32(shape.clone(), generator.randn(shape.iter().product()));
    let start = noise();
    let mut runs = Vec::new();
    let prompt = Prompt { text: prompt, guidance: guidance.map(|guidance| (guidance, "")) };
    let drawn = parts.draw(&prompt, start, &mut |_| Ok(noise()), &mut |step| {
        runs.push(Example { inputs: step.inputs.to_vec(), output: step.output.clone() });
    })?;
    let example = |name: &str, input: &Tensor, output: &Tensor| Example {
        inputs: vec![(name.to_string(), input.clone())],
        output: output.clone(),
    };
    examples.push((Part::TextEncoder, example("input_ids", &drawn.text.ids, &drawn.text.hidden)));
    let walk = parts.walk(&drawn.text, &drawn.guidance);
    let Walked { noise, fresh, latents } = &drawn.walked;
    let transformer = match (bake, latents.last()) {
        (Bake::None, _) | (_, None) => runs,
        (Bake::Step, _) => {
            let before = std::iter::once(noise).chain(latents);
            let one = |(step, (before, after)): (usize, (&Tensor, &Tensor))| Example {
                inputs: walk.step_inputs(before, step, fresh.get(step)),
                output: after.clone(),
            };
            before.zip(latents).enumerate().map(one).collect()
        }
        (Bake::Unrolled, Some(last)) => {
            vec![Example { inputs: walk.unrolled_inputs(noise, fresh), output: last.clone() }]
        }
    };
    examples.extend(transformer.into_iter().map(|example| (Part::Transformer, example)));
    if let Some(last) = latents.last() {
        examples.push((Part::VaeDecoder, example("latent", last, &drawn.image)));
    }
    Ok(drawn)
}

/// Inputs as the interpreter takes them.
pub fn borrowed(inputs: &[(String, Tensor)]) -> Vec<(&str, &Tensor)> {
    inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect()
}
