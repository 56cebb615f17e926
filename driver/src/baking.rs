//! Which of the schedule becomes part of a graph, and whether that contradicts what else is asked for.

use snapc_interp::Interpreter;
use snapc_ir::pipeline::Schedule;
use snapc_ir::{Error, Graph, Result};
use snapc_onnx::Layout;
use snapc_passes::{Baking, Form};
use snapc_weights::{Store, Tensor};

use crate::options::Bake;

/// What a compile for a layout bakes. Where nothing is asked for, a distilled student's steps are baked one by one; other pipelines leave
/// the number of steps to the app, as optimum's pipelines do.
///
/// # Errors
/// If the wishes contradict each other, the schedule or the layout.
pub fn resolve(
    bake: Option<Bake>,
    guidance: Option<f32>,
    layout: Layout,
    schedule: &Schedule,
) -> Result<(Bake, Option<Baking>)> {
    let bake = match (bake, layout) {
        (None | Some(Bake::None), Layout::Optimum) => Bake::None,
        (Some(bake), Layout::Optimum) => {
            return Err(Error::usage(format!(
                "--bake {} contradicts --layout optimum: optimum's pipelines walk the schedule themselves",
                bake.name()
            ))
            .help("leave one of the two out"));
        }
        (Some(bake), Layout::Default) => bake,
        (None, Layout::Default) if schedule.distilled => Bake::Step,
        (None, Layout::Default) => Bake::None,
    };
    let guidance = check_guidance(guidance, schedule)?;
    let form = match bake {
        Bake::None if guidance.is_some() => {
            return Err(Error::usage(
                "--guidance needs a baked schedule: with --bake none the transformer gives one velocity, and the app guides",
            )
            .help("add --bake step or --bake unrolled, or leave --guidance out"));
        }
        Bake::None => return Ok((bake, None)),
        Bake::Step => Form::Step,
        Bake::Unrolled => Form::Unrolled,
    };
    Ok((bake, Some(Baking { form, schedule: schedule.clone(), guidance })))
}

/// The guidance, where it is one: 1 is no guidance.
///
/// # Errors
/// If it is no number, or the schedule is a distilled student's.
pub fn check_guidance(guidance: Option<f32>, schedule: &Schedule) -> Result<Option<f32>> {
    let Some(guidance) = guidance.filter(|&guidance| guidance != 1.0) else { return Ok(None) };
    if !guidance.is_finite() {
        return Err(Error::usage(format!("guidance is {guidance}, expected a number"))
            .help("a number above 1 pulls towards the prompt; leave --guidance out to run without"));
    }
    if schedule.distilled {
        return Err(Error::usage("the pipeline's model is step-distilled: it runs without guidance")
            .help("leave --guidance out, or take a pipeline without `distilled_sigmas`"));
    }
    Ok(Some(guidance))
}

/// The interpreter as `bake` asks for it.
///
/// # Errors
/// What the interpreter finds.
pub fn evaluate(store: &Store, graph: &Graph, times: &[Vec<f32>]) -> Result<Vec<Vec<Vec<f32>>>> {
    let interpreter = Interpreter::frugal(graph, store);
    let [port] = graph.inputs() else { return Err(Error::bug("a time path has one input")) };
    let run = |values: &Vec<f32>| -> Result<Vec<Vec<f32>>> {
        let time = Tensor::float(graph.ty(port.value).clone(), values.clone());
        let outputs = interpreter.run(&[(port.name.as_str(), &time)])?;
        Ok(outputs.iter().map(|output| output.values().to_vec()).collect())
    };
    times.iter().map(run).collect()
}
