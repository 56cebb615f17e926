//! Layers of codes: what they read and give stands for rounded numbers (google-ai-edge/LiteRT, `tflite/kernels/fully_connected.cc` and
//! `conv.cc`).

use snapc_ir::ops::{Linear, Op};
use snapc_ir::{Error, Result, ValueId};

use super::operators::{Held, Operands};
use super::require;
use super::tensors::Tensor;
use crate::schema::ABSENT;

impl Operands<'_, '_> {
    /// The numbers that an operator's codes stand for.
    pub fn numbers(&self) -> Result<Held> {
        self.count(1)?;
        let version = self.operator.builtin.version;
        match self.rounded(0)? {
            Some(value) if version == 2 => Ok(Held::Value(value)),
            _ => Err(Error::input(format!("DEQUANTIZE of version {version} is not for these codes"))),
        }
    }

    /// A layer of codes: the bias is in steps of the product of both scales.
    pub fn product(&self) -> Result<(Op, Vec<ValueId>)> {
        self.count(3)?;
        let x = self.rounded(0)?.ok_or_else(|| Error::input("its input is not of codes"))?;
        let Some((weight, 12)) = self.codes(1)? else {
            return Err(Error::input("its weight is not of codes of 8 bits"));
        };
        let bias = match self.operator.inputs[2] {
            ABSENT => None,
            _ => Some(self.steps()?),
        };
        let (name, version) = (self.operator.builtin.name, self.operator.builtin.version);
        let op: Op = match (name, version, bias) {
            ("FULLY_CONNECTED", 12, _) => {
                self.keeps_axes()?;
                Linear {}.into()
            }
            ("CONV_2D", 3, Some(_)) => {
                let conv = self.convolution_of(x, weight, 0)?;
                let [x, w] = [x, weight].map(|id| self.reader.builder.ty(id));
                require(x.shape[3] == w.shape[3], || "CONV_2D of codes has groups".to_string())?;
                conv.into()
            }
            _ => return Err(Error::input(format!("{name} of version {version} is not for codes"))),
        };
        Ok((op, [x, weight].into_iter().chain(bias).collect()))
    }

    /// What is added to products of codes: its scales are the products of both scales.
    fn steps(&self) -> Result<ValueId> {
        let (index, held) = self.held(2)?;
        let Held::Steps(bias) = held else { return Err(Error::input("its bias is not in steps")) };
        let of = |number: usize| Ok::<_, Error>(&self.reader.tensors[self.held(number)?.0]);
        let (x, weight, bias_tensor) = (of(0)?, of(1)?, &self.reader.tensors[index]);
        let tables = |tensor: &Tensor| {
            let coding = tensor.codes.as_ref().map(|codes| codes.coding(&tensor.ty.shape));
            coding.map(|coding| coding.tables).unwrap_or_default()
        };
        let scale = x.scale.unwrap_or_default();
        let expected: Vec<f32> = tables(weight).iter().map(|row| scale * row).collect();
        require(tables(bias_tensor) == expected, || {
            format!("the steps of {} are not the products of both scales", bias_tensor.name)
        })?;
        Ok(*bias)
    }
}
