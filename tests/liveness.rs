//! What a run holds at once, by hand and against a count that shares nothing with it.
#![allow(clippy::unwrap_used, clippy::panic)]

use snapc_backend::legalize;
use snapc_driver::{MinOs, Part, Precision, Target};
use snapc_frontends::Pipeline;
use snapc_interp::Interpreter;
use snapc_ir::analysis::{Peak, peak};
use snapc_ir::{Graph, text};
use snapc_passes::{Standard, run, standard};
use snapc_tests::{fixture, no_numbers, numbers};
use snapc_weights::{Store, Tensor};

fn peak_of(body: &str) -> (u64, String) {
    let Peak { bytes, scope } = peak(&text::parse(&format!("graph part subnet\n{body}")).unwrap());
    (bytes, scope)
}

#[test]
fn a_value_goes_behind_its_last_reader() {
    // A chain holds two values at once, however long it is.
    let chain = "
        input %x: f32[8]
        scope a
        %0 = relu %x : f32[8]
        scope b
        %1 = tanh %0 : f32[8]
        %2 = relu %1 : f32[8]
        output y %2";
    assert_eq!(peak_of(chain), (64, "a".to_string()));
    // A branch that waits is a third one; numbers count in their own types.
    let branch = r#"
        input %x: f32[8]
        scope a
        %0 = relu %x : f32[8]
        scope b
        %1 = tanh %0 : f32[8]
        %2 = cast %1 {"dtype":"f16"} : f16[8]
        %3 = cast %2 {"dtype":"f32"} : f32[8]
        %4 = add %3, %0 : f32[8]
        output y %4"#;
    // 0, 3 and 4.
    assert_eq!(peak_of(branch), (96, "b".to_string()));
    // Both of a split's results are made at once, and the one that nothing reads goes behind it.
    let split = r#"
        input %x: f32[8]
        scope a
        %0, %1 = split %x {"parts":2,"axis":0} : f32[4], f32[4]
        %2 = relu %1 : f32[4]
        output y %2"#;
    assert_eq!(peak_of(split), (64, "a".to_string()));
}

#[test]
fn inputs_wait_and_outputs_stay() {
    // z is read last and there all the time; a is an output that nothing reads; nodes without a module have no path.
    let body = "
        input %x: f32[2]
        input %z: f32[100]
        %0 = relu %x : f32[2]
        %1 = tanh %x : f32[2]
        %2 = relu %1 : f32[2]
        %3 = relu %2 : f32[2]
        %4 = relu %z : f32[100]
        output a %0
        output b %3
        output c %4";
    assert_eq!(peak_of(body), (8 + 8 + 400 + 400, String::new()));
}

#[test]
fn weights_are_not_counted() {
    let body = "
        input %x: f32[1, 4]
        weight @w: f32[4, 4] = tensor f32[4, 4]
        scope a
        %0 = linear %x, @w : f32[1, 4]
        output y %0";
    assert_eq!(peak_of(body), (32, "a".to_string()));
}

/// All values that are made before the end of a node and asked for at it or behind it, node by node: slow and plain.
fn counted(graph: &Graph) -> u64 {
    let at = |id: snapc_ir::ValueId, node: usize| {
        let nodes = graph.nodes();
        let is_input = graph.inputs().iter().any(|port| port.value == id);
        let made = is_input || nodes[..=node].iter().any(|node| node.results.contains(&id));
        let is_output = graph.outputs().iter().any(|port| port.value == id);
        let read = nodes[node..].iter().any(|node| node.operands.contains(&id));
        made && (is_output || read || nodes[node].results.contains(&id))
    };
    let bytes = |node: usize| -> u64 {
        let ids = graph
            .inputs()
            .iter()
            .map(|port| port.value)
            .chain(graph.nodes().iter().flat_map(|node| node.results.iter().copied()));
        ids.filter(|&id| at(id, node)).map(|id| graph.ty(id).bytes() as u64).sum()
    };
    (0..graph.nodes().len()).map(bytes).max().unwrap_or_default()
}

/// The legal graphs of the fixture, and what the interpreter holds of one as it runs.
#[test]
fn the_peak_is_what_is_counted() {
    let pipeline = Pipeline::open(&fixture("shapes")).unwrap();
    for target in Target::ALL {
        for part in [Part::TextEncoder, Part::VaeDecoder] {
            let imported = pipeline.import(part, 1, [16, 16]).unwrap();
            let widths = (pipeline.width(), pipeline.subnet("tiny").unwrap());
            let (precision, weights_only) = (Precision::F16, target.weights_only());
            let options = Standard { widths, baking: None, precision, weights_only, quantize: None };
            let passes = standard(&options, imported.graph.stage(), &no_numbers);
            let graph = run(&imported.graph, &passes, None).unwrap();
            let legal = legalize(&graph, target.backend(MinOs::default()).as_ref()).unwrap();
            assert_eq!(peak(&legal).bytes, counted(&legal), "{} {}", target.name(), part.name());
        }
    }
}

/// Values that the interpreter still has when a node asks for them are those that the peak counts: it fails on one that is let go too early.
#[test]
fn the_interpreter_lets_go_by_the_same_rule() {
    let body = r#"graph part subnet
        input %x: f32[8]
        scope a
        %0, %1 = split %x {"parts":2,"axis":0} : f32[4], f32[4]
        %2 = add %0, %0 : f32[4]
        %3 = tanh %2 : f32[4]
        %4 = add %3, %1 : f32[4]
        %5 = add %4, %2 : f32[4]
        output y %5
        output z %3"#;
    let (graph, store) = (text::parse(body).unwrap(), Store::empty());
    let x: Tensor = numbers(3, &[8]);
    let out = Interpreter::new(&graph, &store).run(&[("x", &x)]).unwrap();
    let [a, b] = [&x.values()[..4], &x.values()[4..]];
    for index in 0..4 {
        let (double, tanh) = (2.0 * a[index], (2.0 * f64::from(a[index])).tanh());
        assert!((f64::from(out[1].values()[index]) - tanh).abs() < 1e-6);
        let sum = tanh + f64::from(b[index]) + f64::from(double);
        assert!((f64::from(out[0].values()[index]) - sum).abs() < 1e-5);
    }
}
