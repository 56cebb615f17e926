use snapc_ir::ops::Attention;
use snapc_ir::ops::attention::whole;
use snapc_ir::{Builder, Result, TensorType, ValueId};

use super::{Device, Lowering};

/// All queries and keys in one product.
pub struct Whole;

impl Lowering for Whole {
    fn takes(&self, _: Device, _: &Attention, _: &[&TensorType]) -> Option<String> {
        Some("one product: its scores are few".to_string())
    }

    fn lower(&self, b: &mut Builder, _: Device, op: &Attention, operands: &[ValueId]) -> Result<ValueId> {
        whole(b, op, operands)
    }
}
