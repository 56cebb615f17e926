//! The rules of a well-formed graph.
//!
//! 1. Names of inputs, outputs and weights are unique and plain (letters, digits, `_ . - #`); there is an output.
//! 2. Each operand is an input, a weight, or a result of an earlier node.
//! 3. Each result has the type that its op infers from its operands.
//! 4. Each weight's source and transforms give the shape that its axes say, with no empty axis.
//! 5. A weight is encoded once at most, and behind that no block of its codes is parted.
//! 6. A supernet has no op that holds sizes; only a supernet has elastic axes.

use std::collections::BTreeSet;

use crate::error::{Error, Place, Result};
use crate::graph::{Def, Graph, Port, Stage};
use crate::types::shape_text;
use crate::weight::{Transform, Weight};

/// Checks all rules.
///
/// # Errors
/// The first broken rule, naming the weight or the node.
pub fn verify(graph: &Graph) -> Result<()> {
    let ports = |ports: &[Port]| -> Result<()> { check_names(ports.iter().map(|port| port.name.as_str())) };
    ports(&graph.inputs)?;
    ports(&graph.outputs)?;
    check_names(graph.weights.iter().map(|weight| weight.name.as_str()))?;
    if graph.outputs.is_empty() {
        return Err(Error::input("the graph has no output"));
    }
    for weight in &graph.weights {
        check_weight(weight, &graph.stage).map_err(|error| error.at(Place::Tensor(weight.name.clone())))?;
    }
    check_nodes(graph)?;
    Ok(())
}

fn check_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for name in names {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.-#".contains(c);
        if name.is_empty() || !name.chars().all(plain) {
            return Err(Error::input(format!("`{name}` is no plain name")));
        }
        if !seen.insert(name) {
            return Err(Error::input(format!("two things are named {name}")));
        }
    }
    Ok(())
}

fn check_weight(weight: &Weight, stage: &Stage) -> Result<()> {
    let shape = weight.shape();
    if weight.computed_shape().as_ref() != Some(&shape) {
        let found = weight.computed_shape().map_or("no shape".to_string(), |shape| shape_text(&shape));
        return Err(Error::input(format!("its recipe gives {found}, its axes say {}", shape_text(&shape))));
    }
    if shape.contains(&0) {
        return Err(Error::input(format!("it is empty: {}", shape_text(&shape))));
    }
    let encodes = weight.transforms.iter().filter(|change| matches!(change, Transform::Encode(_))).count();
    let parted = weight.encoding().is_some_and(|(_, stored)| stored) && weight.coded().is_none();
    if encodes > 1 || parted || (encodes == 0 && weight.transforms.contains(&Transform::Decode)) {
        return Err(Error::input("its codes are encoded twice, parted inside a block, or never made"));
    }
    let steps = weight.transforms.iter().position(|change| matches!(change, Transform::Steps { .. }));
    if steps.is_some_and(|place| place + 1 < weight.transforms.len()) {
        return Err(Error::input("it is changed behind its steps"));
    }
    if let Some((of, _)) = weight.stepped() {
        check_weight(of, stage)?;
    }
    if *stage != Stage::Supernet && weight.is_elastic() {
        return Err(Error::input(format!("it has elastic axes in a {stage} graph")));
    }
    Ok(())
}

fn check_nodes(graph: &Graph) -> Result<()> {
    let mut made = vec![false; graph.values.len()];
    for (index, value) in graph.values.iter().enumerate() {
        made[index] = !matches!(value.def, Def::Result(..));
    }
    for node in &graph.nodes {
        let fail = |reason: String| {
            Err(Error::input(format!("{}: {reason}", node.op.name())).at(Place::Node(node.scope.to_string())))
        };
        if node.operands.iter().any(|id| !made.get(id.index()).copied().unwrap_or(false)) {
            return fail("an operand is not made before it".to_string());
        }
        if graph.stage == Stage::Supernet && node.op.holds_sizes() {
            return fail("it holds sizes, so it cannot stand in a supernet".to_string());
        }
        match node.op.infer(&graph.operand_types(node)) {
            Err(reason) => return fail(reason),
            Ok(types) => {
                if types.iter().ne(node.results.iter().map(|&id| graph.ty(id))) {
                    return fail("its results have other types than it infers".to_string());
                }
            }
        }
        node.results.iter().for_each(|id| made[id.index()] = true);
    }
    Ok(())
}
