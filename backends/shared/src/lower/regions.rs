use snapc_ir::ops::attention::regions;
use snapc_ir::ops::{Attention, Pattern};
use snapc_ir::{Builder, Result, TensorType, ValueId};

use super::{Device, Lowering, moved};

/// A neighbourhood as one batched product for each of the regions whose tiles see the same offsets.
pub struct Regions;

impl Lowering for Regions {
    fn takes(&self, device: Device, op: &Attention, _: &[&TensorType]) -> Option<String> {
        let Pattern::Neighborhood { radius, order, .. } = op.pattern else { return None };
        let most = (2 * radius + 1).pow(2);
        let why = match device {
            Device::Cpu => "the tiles are too small or too many to be unrolled",
            Device::Gpu | Device::Npu => "the number of ops must not grow with the grid",
        };
        Some(format!("at most {most} regions, each one batched product: on {device} {why}{}", moved(order)))
    }

    fn lower(&self, b: &mut Builder, _: Device, op: &Attention, operands: &[ValueId]) -> Result<ValueId> {
        regions(b, op, operands)
    }
}
