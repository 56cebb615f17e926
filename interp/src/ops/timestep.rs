use snapc_ir::Result;
use snapc_ir::ops::TimestepEmbedding;

use super::{Call, Execute};
use crate::value::Value;

impl Execute for TimestepEmbedding {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        let half = self.dim / 2;
        let mut values = Vec::with_capacity(call.results[0].count());
        for &timestep in call.values(0) {
            // The frequencies are rounded to f32, as diffusers has them; only then do the angles agree. Not the system's functions,
            // whose last bits differ from system to system: these numbers become part of artifacts.
            let angle = |i: usize| timestep * libm::pow(10000.0, -2.0 * i as f64 / self.dim as f64) as f32;
            values.extend((0..half).map(|i| libm::cosf(angle(i))));
            values.extend((0..half).map(|i| libm::sinf(angle(i))));
        }
        call.one(values.into())
    }
}
