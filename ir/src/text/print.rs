use std::fmt::Write;

use crate::graph::{Def, Graph, Node, ValueId};
use crate::weight::{Source, Transform, Weight};

/// Writes a graph in the text form.
pub fn print(graph: &Graph) -> String {
    let mut text = format!("graph {} {}\n", graph.name(), graph.stage());
    let names = value_names(graph);
    for port in graph.inputs() {
        line(&mut text, format_args!("input  %{}: {}", port.name, graph.ty(port.value)));
    }
    for weight in graph.weights() {
        line(&mut text, format_args!("weight {}", weight_text(weight)));
    }
    let mut scope = "";
    for node in graph.nodes() {
        if *node.scope != *scope {
            scope = &node.scope;
            line(&mut text, format_args!("scope {}", if scope.is_empty() { "-" } else { scope }));
        }
        line(&mut text, format_args!("{}", node_text(graph, node, &names)));
    }
    for port in graph.outputs() {
        line(&mut text, format_args!("output {} {}", port.name, names[port.value.index()]));
    }
    text
}

fn line(text: &mut String, content: std::fmt::Arguments) {
    // Writing into a String cannot fail.
    let _ = writeln!(text, "  {content}");
}

fn value_names(graph: &Graph) -> Vec<String> {
    let mut results = 0;
    let mut name = |def: Def| match def {
        Def::Input(number) => format!("%{}", graph.inputs()[number].name),
        Def::Weight(id) => format!("@{}", graph.weight(id).name),
        Def::Result(..) => {
            results += 1;
            format!("%{}", results - 1)
        }
    };
    graph.values().iter().map(|value| name(value.def)).collect()
}

fn node_text(graph: &Graph, node: &Node, names: &[String]) -> String {
    let list =
        |ids: &[ValueId]| ids.iter().map(|id| names[id.index()].as_str()).collect::<Vec<_>>().join(", ");
    let types: Vec<String> = node.results.iter().map(|&id| graph.ty(id).to_string()).collect();
    let attributes = match node.op.attributes() {
        text if text.is_empty() => text,
        text => format!(" {text}"),
    };
    let (results, operands) = (list(&node.results), list(&node.operands));
    format!("{results} = {} {operands}{attributes} : {}", node.op.name(), types.join(", "))
}

fn weight_text(weight: &Weight) -> String {
    let dims: Vec<String> = weight.dims.iter().map(ToString::to_string).collect();
    let mut text = format!("@{}: {}[{}] = ", weight.name, weight.dtype, dims.join(", "));
    let numbers = |list: &[usize]| list.iter().map(usize::to_string).collect::<Vec<_>>().join(" ");
    match &weight.source {
        Source::Tensor { name, dtype, shape } => {
            let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
            text += &format!("tensor {dtype}[{}]", sizes.join(", "));
            if *name != weight.name {
                text += &format!(" {name}");
            }
        }
        Source::Inline { values, shape } => {
            let values: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
            text += &format!("inline [{}] [{}]", numbers(shape), values.join(", "));
        }
        // A table is plain numbers and names: it always has a JSON form.
        Source::Table(table) => {
            text += &format!("table {}", serde_json::to_string(table).unwrap_or_default())
        }
    }
    for transform in &weight.transforms {
        text += &match transform {
            Transform::Take { axis, chunks: 1, keep } => format!(" | take {axis} {keep}"),
            Transform::Take { axis, chunks, keep } => format!(" | take {axis} {chunks}x{keep}"),
            Transform::Part { axis, start, size } => format!(" | part {axis} {start} {size}"),
            Transform::Transpose(perm) => format!(" | transpose {}", numbers(perm)),
            Transform::Reshape(sizes) => format!(" | reshape {}", numbers(sizes)),
            Transform::Repeat(times) => format!(" | repeat {times}"),
            Transform::Double(power) => format!(" | double {power}"),
            Transform::LowRank { rank, factor } => format!(" | low_rank {rank} {}", factor.name()),
            Transform::Encode(encoding) => format!(" | encode {encoding}"),
            Transform::Decode => " | decode".to_string(),
            Transform::Steps { of, scale } => format!(" | steps {scale:?} {}", weight_text(of)),
        };
    }
    text
}
