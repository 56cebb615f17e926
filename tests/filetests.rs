//! Files of `sir/`: the first line is a command, the rest a graph; what comes of it is a snapshot. In a wrong graph the line at fault ends
//! in `; error: ..`; a graph that is wrong as a whole has `fails: ..` in its command.
#![allow(clippy::unwrap_used, clippy::panic)]

use snapc_backend::legalize;
use snapc_driver::{MinOs, Target};
use snapc_frontends::{Part, Pipeline};
use snapc_interp::Interpreter;
use snapc_ir::analysis::Flow;
use snapc_ir::pipeline::{Schedule, StepRule};
use snapc_ir::text::{parse, print};
use snapc_ir::{Def, Graph, Place};
use snapc_passes::ranges::{Measured, Plan};
use snapc_passes::{
    AttentionScale, BakePass, Baking, Form, Pass, Precision, PrecisionPass, RotaryHalves, Slice,
    TokenOrderPass,
};
use snapc_tests::fixture;
use snapc_weights::{Store, Tensor};

/// `name=number` among words.
fn number(words: &[&str], name: &str) -> usize {
    let found = words.iter().find_map(|word| word.strip_prefix(&format!("{name}=")));
    found.unwrap_or_else(|| panic!("no {name}= in {words:?}")).parse().unwrap()
}

fn command(words: &[&str], graph: &Graph) -> Graph {
    match words[0] {
        "parse" => graph.clone(),
        "slice" => Slice { from: number(words, "from"), to: number(words, "to") }.run(graph).unwrap(),
        "attention_scale" => AttentionScale.run(graph).unwrap(),
        "rotary_halves" => RotaryHalves.run(graph).unwrap(),
        "token_order" => TokenOrderPass.run(graph).unwrap(),
        "bake" => {
            let list = words.iter().find_map(|word| word.strip_prefix("sigmas=")).expect("sigmas=");
            let sigmas = list.split(',').map(|sigma| sigma.parse().unwrap()).collect();
            let stochastic = words.contains(&"stochastic");
            let rule = if stochastic { StepRule::Stochastic } else { StepRule::Euler };
            let guidance = words.iter().find_map(|word| word.strip_prefix("guidance="));
            let baking = Baking {
                form: if words[1] == "step" { Form::Step } else { Form::Unrolled },
                schedule: Schedule { sigmas, rule, distilled: false },
                guidance: guidance.map(|guidance| guidance.parse().unwrap()),
            };
            BakePass { baking: Some(baking), evaluate: &evaluate }.run(graph).unwrap()
        }
        "precision" => {
            let precision: Precision = words[1].parse().unwrap();
            PrecisionPass { precision, weights_only: words.get(2) == Some(&"weights") }.run(graph).unwrap()
        }
        "ranges" => ranges(words, graph).0,
        "legalize" => {
            let target: Target = words[1].parse().unwrap();
            (*legalize(graph, target.backend(MinOs::default()).as_ref()).unwrap()).clone()
        }
        other => panic!("`{other}` is no command of a file test"),
    }
}

/// `precision f16` for values whose largest numbers are given: `x=9e4` of an input or weight, `0=9e4` of a node's result. Also what
/// `--explain` says.
fn ranges(words: &[&str], graph: &Graph) -> (Graph, String) {
    let mut measured = Measured::new(graph);
    for (name, size) in words.iter().filter_map(|word| word.split_once('=')) {
        let input = graph.inputs().iter().find(|port| port.name == name).map(|port| port.value);
        let weight = graph.values().iter().find_map(|value| match value.def {
            Def::Weight(id) if graph.weight(id).name == name => Some(graph.weight_value(id)),
            _ => None,
        });
        let node = || graph.nodes()[name.parse::<usize>().unwrap()].results[0];
        let value = input.or(weight).unwrap_or_else(node);
        size.split(',').for_each(|size| measured.add(value, 1, &[size.parse().unwrap()]));
    }
    let plan = Plan::new(graph, &measured);
    let pass = PrecisionPass { precision: Precision::F16, weights_only: false };
    let notes = plan
        .notes()
        .iter()
        .map(|note| format!("; {} x {} (first at {}): {}\n", note.op, note.count, note.first, note.reason));
    (pass.run_measured(graph, &plan).unwrap(), notes.collect())
}

/// The time path of a file's graph: its weights are all inline.
fn evaluate(graph: &Graph, times: &[Vec<f32>]) -> snapc_ir::Result<Vec<Vec<Vec<f32>>>> {
    let store = Store::empty();
    let interpreter = Interpreter::new(graph, &store);
    let run = |time: &Vec<f32>| {
        let outputs = interpreter.run(&[("timestep", &Tensor::f32([time.len()], time.clone()))])?;
        Ok(outputs.iter().map(|output| output.values().to_vec()).collect())
    };
    times.iter().map(run).collect()
}

/// The text of a graph, after seeing that it parses back to the same text.
fn checked(graph: &Graph) -> String {
    let text = print(graph);
    let back = parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(print(&back), text);
    assert_eq!(back, *graph);
    text
}

#[test]
fn files() {
    insta::glob!("sir/*/*.sir", |path| {
        let text = std::fs::read_to_string(path).unwrap();
        let first = text.lines().next().unwrap().strip_prefix("; run ").expect("a command");
        let fault = text
            .lines()
            .enumerate()
            .find_map(|(index, line)| Some((index + 1, line.split_once("; error: ")?.1)));
        if let Some((line, expected)) = fault {
            let error = parse(&text).expect_err("a fault");
            assert!(error.places().contains(&Place::Line(line)), "{}: {error}", path.display());
            assert!(error.to_string().contains(expected), "{}: {error}", path.display());
            return;
        }
        if let Some((_, expected)) = first.split_once("fails: ") {
            let error = parse(&text).expect_err("a fault");
            assert!(error.to_string().contains(expected), "{}: {error}", path.display());
            return;
        }
        let words: Vec<&str> = first.split_whitespace().collect();
        let graph = parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let notes = if words[0] == "ranges" { ranges(&words, &graph).1 } else { String::new() };
        insta::assert_snapshot!(format!("{}{notes}", checked(&command(&words, &graph))));
    });
}

fn shapes(part: Part) -> (Pipeline, Graph) {
    let pipeline = Pipeline::open(&fixture("shapes")).unwrap();
    let latent = pipeline.latent_size(None).unwrap();
    let graph = pipeline.import(part, 1, latent).unwrap().graph;
    (pipeline, graph)
}

#[test]
fn import_of_the_fixture() {
    for part in Part::ALL {
        insta::assert_snapshot!(format!("import_{}", part.name()), checked(&shapes(part).1));
    }
}

#[test]
fn slice_of_the_fixture() {
    let (pipeline, graph) = shapes(Part::Transformer);
    let sliced = Slice { from: pipeline.width(), to: 64 }.run(&graph).unwrap();
    insta::assert_snapshot!("slice_transformer_small", checked(&sliced));
}

#[test]
fn legal_graphs_of_the_fixture_parse_back() {
    let (pipeline, graph) = shapes(Part::Transformer);
    let sliced = Slice { from: pipeline.width(), to: 32 }.run(&graph).unwrap();
    let half = PrecisionPass { precision: Precision::F16, weights_only: false }.run(&sliced).unwrap();
    for target in Target::ALL {
        let legal = legalize(&half, target.backend(MinOs::default()).as_ref()).unwrap();
        checked(&legal);
    }
}

/// The widest value that crosses a cut, and what depends on the timestep alone.
#[test]
fn analysis_of_the_fixture() {
    let (_, graph) = shapes(Part::Transformer);
    let flow = Flow::new(&graph);
    let timestep = graph.inputs().iter().position(|port| port.name == "timestep").unwrap();
    let only: Vec<String> =
        flow.only_from(timestep).into_iter().map(|id| graph.node(id).scope.to_string()).collect();
    assert!(only.iter().any(|scope| scope == "time_mod"));
    assert!(only.iter().any(|scope| scope == "up.1.mod_table"));
    assert!(
        only.iter()
            .all(|scope| !scope.contains("attn") && !scope.contains("ffn") && !scope.starts_with("patch"))
    );
    let decoder = shapes(Part::VaeDecoder).1;
    let waists = Flow::new(&decoder).waists();
    let last = decoder.nodes().len() - 1;
    assert!(waists.len() > 10 && waists.last().unwrap().index() == last);
    insta::assert_snapshot!("dot_vae_decoder", Flow::new(&decoder).dot());
}
