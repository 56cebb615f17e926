//! The cut of a graph where one input is known, against every other way to cut it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;

use snapc_ir::analysis::{Flow, Prices};
use snapc_ir::text::parse;
use snapc_ir::{Def, Graph, NodeId, TensorType, ValueId, Weight, WeightId};

fn value_price(ty: &TensorType) -> u64 {
    3 * ty.bytes() as u64 + 5
}

fn weight_price(weight: &Weight) -> u64 {
    weight.ty().bytes() as u64
}

/// The weights that a node reads, also through nodes that depend on no input.
fn read(graph: &Graph, id: NodeId, constant: &BTreeSet<NodeId>) -> BTreeSet<WeightId> {
    let of = |&operand| match graph.value(operand).def {
        Def::Weight(weight) => BTreeSet::from([weight]),
        Def::Result(maker, _) if constant.contains(&maker) => read(graph, maker, constant),
        _ => BTreeSet::new(),
    };
    graph.node(id).operands.iter().flat_map(of).collect()
}

/// What it costs to compute `before` beforehand; none where one of them needs what is computed later.
fn cost(graph: &Graph, input: usize, before: &BTreeSet<NodeId>) -> Option<u64> {
    let flow = Flow::new(graph);
    let free = flow.only_from(input);
    let moving: BTreeSet<NodeId> =
        (0..graph.inputs().len()).flat_map(|input| flow.reached_from(input)).collect();
    let constant: BTreeSet<NodeId> =
        graph.nodes_with_ids().map(|(id, _)| id).filter(|id| !moving.contains(id)).collect();
    let known = |value| match graph.value(value).def {
        Def::Input(number) => number == input,
        Def::Result(id, _) => before.contains(&id),
        Def::Weight(_) => false,
    };
    let mut values: BTreeSet<ValueId> = graph.outputs().iter().map(|port| port.value).collect();
    let (mut weights, mut always) = (BTreeSet::new(), BTreeSet::new());
    for (id, node) in graph.nodes_with_ids().filter(|(id, _)| !constant.contains(id)) {
        if !before.contains(&id) {
            values.extend(&node.operands);
            let paid = if free.contains(&id) { &mut weights } else { &mut always };
            paid.extend(read(graph, id, &constant));
            continue;
        }
        let later = |&value: &ValueId| matches!(graph.value(value).def, Def::Result(id, _) if free.contains(&id) && !before.contains(&id));
        if node.operands.iter().any(later) {
            return None;
        }
    }
    let of_values: u64 =
        values.iter().filter(|&&value| known(value)).map(|&value| value_price(graph.ty(value))).sum();
    Some(of_values + (&weights - &always).into_iter().map(|id| weight_price(graph.weight(id))).sum::<u64>())
}

fn check(graph: &Graph) -> BTreeSet<NodeId> {
    let flow = Flow::new(graph);
    let found = flow.cut(0, &Prices { value: &value_price, weight: &weight_price });
    assert_eq!(cost(graph, 0, &found.before), Some(found.cost), "what it says it costs");
    let free: Vec<NodeId> = flow.only_from(0).into_iter().collect();
    for chosen in 0..1u32 << free.len() {
        let before: BTreeSet<NodeId> =
            free.iter().enumerate().filter(|(bit, _)| chosen >> bit & 1 == 1).map(|(_, &id)| id).collect();
        if let Some(cost) = cost(graph, 0, &before) {
            assert!(cost >= found.cost, "{before:?} costs {cost}, {found:?}");
            assert!(
                cost > found.cost || before.len() <= found.before.len(),
                "{before:?} is later than {found:?}"
            );
        }
    }
    for value in &found.crossing {
        let known = match graph.value(*value).def {
            Def::Input(number) => number == 0,
            Def::Result(id, _) => found.before.contains(&id),
            Def::Weight(_) => false,
        };
        assert!(known, "{value:?}");
    }
    found.before
}

/// A dear product is computed beforehand, a cheap sum behind it is not.
#[test]
fn weights_weigh_against_values() {
    let graph = parse(
        r#"graph t subnet
        input %time: f32[1, 8]
        input %x: f32[1, 16]
        weight @big: f32[16, 8] = tensor f32[16, 8]
        weight @row: f32[1, 16] = tensor f32[1, 16]
        %0 = linear %time, @big : f32[1, 16]
        %1 = add %0, @row : f32[1, 16]
        %2 = mul %0, %x : f32[1, 16]
        %3 = add %2, %1 : f32[1, 16]
        output y %3"#,
    )
    .unwrap();
    assert_eq!(check(&graph).into_iter().map(NodeId::index).collect::<Vec<_>>(), [0]);
}

/// A weight that is read behind the cut in any case is free, and one that two nodes read is paid once.
#[test]
fn shared_weights_are_paid_once() {
    let graph = parse(
        r#"graph t subnet
        input %time: f32[1, 8]
        input %x: f32[1, 8]
        weight @shared: f32[8, 8] = tensor f32[8, 8]
        weight @twice: f32[8, 8] = tensor f32[8, 8]
        %0 = linear %time, @shared : f32[1, 8]
        %1 = linear %x, @shared : f32[1, 8]
        %2 = linear %time, @twice : f32[1, 8]
        %3 = linear %2, @twice : f32[1, 8]
        %4 = add %0, %1 : f32[1, 8]
        %5 = add %4, %3 : f32[1, 8]
        output y %5"#,
    )
    .unwrap();
    check(&graph);
}

/// Graphs of random nodes over three inputs, the first of them known.
#[test]
fn random_graphs() {
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let (mut cuts, mut early, mut late) = (0, 0, 0);
    for _ in 0..400 {
        let mut lines = vec!["graph r subnet".to_string()];
        lines.extend(["a", "b", "c"].map(|name| format!("input %{name}: f32[1, 4]")));
        lines.extend((0..4).map(|w| {
            format!("weight @w{w}: f32[{}, 4] = tensor f32[{}, 4]", [1, 1, 4, 4][w], [1, 1, 4, 4][w])
        }));
        // Most values come of the known input.
        let mut values =
            vec!["%a".to_string(), "%a".to_string(), "%a".to_string(), "%b".to_string(), "@w0".to_string()];
        let count = 4 + random(8);
        for node in 0..count {
            let x = values[random(values.len())].clone();
            let other = values[random(values.len())].clone();
            lines.push(match random(4) {
                0 => format!("%v{node} = linear {x}, @w{} : f32[1, 4]", 2 + random(2)),
                1 => format!("%v{node} = add {x}, @w{} : f32[1, 4]", random(2)),
                2 => format!("%v{node} = mul {x}, {other} : f32[1, 4]"),
                _ => format!("%v{node} = silu {x} : f32[1, 4]"),
            });
            values.push(format!("%v{node}"));
        }
        lines.push(format!("%end = add %v{}, %c : f32[1, 4]", count - 1));
        lines.extend(
            (0..count)
                .filter(|_| random(4) == 0)
                .map(|node| format!("output y{node} %v{node}"))
                .collect::<Vec<_>>(),
        );
        lines.push("output y %end".to_string());
        let graph = parse(&lines.join("\n")).unwrap();
        let free = Flow::new(&graph).only_from(0).len();
        let before = check(&graph).len();
        cuts += 1;
        early += usize::from(free > 0 && before == 0);
        late += usize::from(before > 0 && before < free);
    }
    println!("{cuts} graphs: {early} cut at the input, {late} in the middle");
    assert!(early > 5 && late > 20, "{early} and {late}: the graphs are too much alike");
}
