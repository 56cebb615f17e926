use snapc_ir::ops::TimestepEmbedding;
use snapc_weights::Tensor;

use super::Case;

pub fn cases() -> Vec<Case> {
    let dim = 8;
    let times = [0.0f32, 500.0, 1000.0];
    let expected = times
        .iter()
        .flat_map(|&time| {
            // Frequencies and angles are f32 numbers by definition.
            let angle = |i: usize| f64::from(time * 10000f64.powf(-2.0 * i as f64 / dim as f64) as f32);
            let cosines = (0..dim / 2).map(move |i| angle(i).cos());
            let sines = (0..dim / 2).map(move |i| angle(i).sin());
            cosines.chain(sines).collect::<Vec<_>>()
        })
        .collect();
    let timestep = Tensor::f32([3], times.to_vec());
    vec![Case::new(
        "timestep_embedding",
        "timestep_embedding",
        vec![("timestep", timestep)],
        vec![],
        |b, v| b.op(TimestepEmbedding { dim }, v),
        vec![expected],
    )]
}
