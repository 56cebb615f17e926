use snapc_ir::{Graph, Place, Result, Stage, map_weights};

use crate::Pass;

/// Cuts every elastic axis to its first `to / from`, each chunk on its own. Changes no node: no op of a supernet holds a width.
pub struct Slice {
    /// The supernet's width.
    pub from: usize,
    /// The subnet's width.
    pub to: usize,
}

impl Pass for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }

    fn leaves(&self, stage: &Stage) -> Option<Stage> {
        (*stage == Stage::Supernet).then_some(Stage::Subnet)
    }

    fn run(&self, graph: &Graph) -> Result<Graph> {
        map_weights(graph, Stage::Subnet, |mut weight| {
            for (axis, dim) in weight.dims.clone().into_iter().enumerate() {
                if dim.elastic {
                    let keep = dim.part(self.to, self.from);
                    let keep = keep.map_err(|error| error.at(Place::Tensor(weight.name.clone())))?;
                    weight.take(axis, keep)?;
                }
            }
            Ok(weight)
        })
    }
}
