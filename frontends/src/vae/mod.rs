//! Decoders of variational autoencoders.

pub mod kl;
pub mod tiny;

use snapc_ir::ops::{Conv2d, Layout};
use snapc_ir::{Builder, Dim, Error, Result, ValueId};

use crate::checkpoint::Checkpoint;

/// `latent / scaling_factor + shift_factor`: what the decoder takes of what the sampler leaves.
fn unscale(b: &mut Builder, latent: ValueId, scaling: f64, shift: f64) -> Result<ValueId> {
    let mut z = latent;
    if scaling != 1.0 {
        z = b.mul_scalar(z, (1.0 / scaling) as f32)?;
    }
    if shift != 0.0 {
        z = b.add_scalar(z, shift as f32)?;
    }
    Ok(z)
}

/// A convolution of the checkpoint under the builder's scope, `kernel x kernel`, stride 1, that keeps the map's size.
fn conv(
    b: &mut Builder,
    checkpoint: &mut Checkpoint,
    x: ValueId,
    name: &str,
    [input, output, kernel]: [usize; 3],
    bias: bool,
) -> Result<ValueId> {
    b.scoped(name, |b| {
        let path = b.scope().to_string();
        let dims = [output, input, kernel, kernel].map(Dim::fixed).to_vec();
        let mut operands = vec![x, checkpoint.weight(b, &format!("{path}.weight"), dims)?];
        if bias {
            operands.push(checkpoint.weight(b, &format!("{path}.bias"), vec![Dim::fixed(output)])?);
        }
        b.one(Conv2d { stride: 1, padding: kernel / 2, layout: Layout::Nchw }, &operands)
    })
}

/// Fails unless a field has one of the values that this reader knows.
fn check_known(field: &str, value: &str, known: &[&str]) -> Result<()> {
    if known.contains(&value) {
        return Ok(());
    }
    Err(Error::input(format!(
        "`{field}` is {value:?}, which snapc does not read; it reads {}",
        known.join(", ")
    )))
}
