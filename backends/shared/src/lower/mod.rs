//! How an attention is said in lower ops: one file a way, the first that takes the node is used.

mod chunked;
mod feed_forward;
mod joined;
mod regions;
mod whole;
mod windows;

use std::fmt;
use std::str::FromStr;

use snapc_ir::ops::Attention;
use snapc_ir::{Builder, Error, Result, TensorType, TokenOrder, ValueId};

/// What runs an artifact: it decides how attention is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Few cores with caches: small products that stay in a cache, however many.
    Cpu,
    /// Many cores: few large batched products.
    Gpu,
    /// A neural engine: few ops, batched, with a bound on each.
    Npu,
}

impl Device {
    /// All of them.
    pub const ALL: [Device; 3] = [Device::Cpu, Device::Gpu, Device::Npu];

    /// The word of the option.
    pub fn name(self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
            Device::Gpu => "gpu",
            Device::Npu => "npu",
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let names = || Device::ALL.map(Device::name).join(", ");
        Device::ALL
            .into_iter()
            .find(|device| device.name() == text)
            .ok_or_else(|| format!("`{text}` is no device; the devices are {}", names()))
    }
}

/// One way to say an attention.
trait Lowering: Sync {
    /// Why it is the right one for this device and these operands; `None` where it is not.
    fn takes(&self, device: Device, op: &Attention, operands: &[&TensorType]) -> Option<String>;

    /// The result `[B, N, h, d]`, in lower ops of at most four axes.
    fn lower(&self, b: &mut Builder, device: Device, op: &Attention, operands: &[ValueId])
    -> Result<ValueId>;
}

/// What is to be said of tokens that do not lie tile by tile.
fn moved(order: TokenOrder) -> &'static str {
    if order.is_row_major() {
        "; the tokens lie row by row (sides of tiles and windows that do not divide each other, or an op that asks for their places), so they are moved first"
    } else {
        ""
    }
}

/// Asked in this order; the last takes everything.
const LOWERINGS: [&dyn Lowering; 4] =
    [&windows::Windows, &regions::Regions, &chunked::Chunked, &whole::Whole];

/// Writes a linear as the sum of several where the device gains by it; also says why. `None` where it stays one.
///
/// # Errors
/// If the operands do not fit.
pub fn linear(
    b: &mut Builder,
    device: Device,
    operands: &[ValueId],
) -> Result<(Option<ValueId>, &'static str)> {
    match joined::joined(b, device, operands)? {
        Some(sum) => Ok((Some(sum), joined::JOINED)),
        None => Ok((feed_forward::feed_forward(b, device, operands)?, feed_forward::FEED_FORWARD)),
    }
}

/// Writes an attention in lower ops; also says in words which way was chosen, and why.
///
/// # Errors
/// If the operands do not fit.
pub fn attention(
    b: &mut Builder,
    device: Device,
    op: &Attention,
    operands: &[ValueId],
) -> Result<(ValueId, String)> {
    let types: Vec<TensorType> = operands.iter().map(|&id| b.ty(id).clone()).collect();
    let types: Vec<&TensorType> = types.iter().collect();
    let chosen = LOWERINGS.iter().find_map(|way| Some((way, way.takes(device, op, &types)?)));
    let (way, reason) = chosen.ok_or_else(|| Error::bug("no way takes the attention"))?;
    Ok((way.lower(b, device, op, operands)?, reason))
}
