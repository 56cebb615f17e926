//! Graphs with weights that are stored as codes, in the forms that ONNX and TFLite both have.

/// Name and body, as in the lists of each target.
pub const ENCODED: &[(&str, &str)] = &[
    (
        "encoded_rows",
        r"
        input %x: f32[2, 64]
        weight @w: f32[12, 64] = tensor f32[12, 64] | encode int8
        weight @v: f32[6, 12] = tensor f32[6, 12] | encode int4
        weight @b: f32[12] = tensor f32[12]
        %h = linear %x, @w, @b : f32[2, 12]
        %y = linear %h, @v : f32[2, 6]
        output y %y
        ",
    ),
    (
        "encoded_blocks",
        r"
        input %x: f32[2, 128]
        weight @w: f32[12, 128] = tensor f32[12, 128] | encode int4 group 32
        %y = linear %x, @w : f32[2, 12]
        output y %y
        ",
    ),
    (
        "encoded_map",
        r#"
        input %x: f32[1, 8, 6, 6]
        weight @w: f32[16, 8, 3, 3] = tensor f32[16, 8, 3, 3] | encode int8
        %y = conv2d %x, @w {"stride":1,"padding":1} : f32[1, 16, 6, 6]
        output y %y
        "#,
    ),
    (
        "encoded_cast_f16",
        r#"
        input %x: f32[2, 64]
        weight @w: f16[12, 64] = tensor f32[12, 64] | encode int8
        weight @b: f16[12] = tensor f32[12]
        %0 = cast @w {"dtype":"f32"} : f32[12, 64]
        %1 = cast @b {"dtype":"f32"} : f32[12]
        %y = linear %x, %0, %1 : f32[2, 12]
        output y %y
        "#,
    ),
    (
        "rounded_rows",
        r#"
        input %x: f32[2, 64]
        weight @w: f32[12, 64] = tensor f32[12, 64] | encode int8
        weight @v: f32[300, 12] = tensor f32[300, 12] | encode int8
        weight @b: f32[300] = tensor f32[300]
        %x8 = fake_quantize %x {"scale":0.0078125} : f32[2, 64]
        %h = linear %x8, @w : f32[2, 12]
        %h8 = fake_quantize %h {"scale":0.0625} : f32[2, 12]
        %y = linear %h8, @v, @b : f32[2, 300]
        %y8 = fake_quantize %y {"scale":0.125} : f32[2, 300]
        output y %y8
        "#,
    ),
    (
        "rounded_map",
        r#"
        input %x: f32[1, 8, 6, 6]
        weight @w: f32[16, 8, 3, 3] = tensor f32[16, 8, 3, 3] | encode int8
        %x8 = fake_quantize %x {"scale":0.0078125} : f32[1, 8, 6, 6]
        %y = conv2d %x8, @w {"stride":1,"padding":1} : f32[1, 16, 6, 6]
        %y8 = fake_quantize %y {"scale":0.125} : f32[1, 16, 6, 6]
        output y %y8
        "#,
    ),
];
