//! The graphs, in the text form.

/// Name and body; `T` stands for the type of all values.
pub const CASES: &[(&str, &str)] = &[
    (
        "linear_bias",
        r"
        input %x: T[2, 3, 8]
        weight @w: T[5, 8] = tensor f32[5, 8]
        weight @b: T[5] = tensor f32[5]
        %y = linear %x, @w, @b : T[2, 3, 5]
        output y %y
        ",
    ),
    (
        "linear",
        r"
        input %x: T[4, 20]
        weight @w: T[30, 20] = tensor bf16[60, 20] full | take 0 2x15
        %y = linear %x, @w : T[4, 30]
        output y %y
        ",
    ),
    (
        "linear_vector",
        r"
        input %x: T[8]
        weight @w: T[5, 8] = tensor f32[5, 8]
        weight @b: T[5] = tensor f32[5]
        %y = linear %x, @w, @b : T[5]
        output y %y
        ",
    ),
    (
        "linear_of_value",
        r"
        input %x: T[2, 8]
        input %w: T[5, 8]
        %y = linear %x, %w : T[2, 5]
        output y %y
        ",
    ),
    (
        "conv2d",
        r#"
        input %x: T[2, 4, 7, 9]
        weight @w: T[6, 4, 3, 3] = tensor f32[6, 4, 3, 3]
        weight @b: T[6] = tensor f32[6]
        %y = conv2d %x, @w, @b {"stride":1,"padding":1} : T[2, 6, 7, 9]
        output y %y
        "#,
    ),
    (
        "conv2d_depthwise",
        r#"
        input %x: T[1, 6, 8, 8]
        weight @w: T[6, 1, 2, 2] = tensor f32[6, 1, 2, 2]
        %y = conv2d %x, @w {"stride":2,"padding":0} : T[1, 6, 4, 4]
        output y %y
        "#,
    ),
    (
        "conv2d_groups",
        r#"
        input %x: T[1, 8, 5, 5]
        weight @w: T[4, 4, 1, 3] = tensor f32[4, 4, 1, 3]
        %y = conv2d %x, @w {"stride":1,"padding":0} : T[1, 4, 5, 3]
        output y %y
        "#,
    ),
    (
        "conv2d_pad",
        r#"
        input %x: T[1, 4, 7, 9]
        weight @w: T[6, 4, 3, 3] = tensor f32[6, 4, 3, 3]
        scope down.0.conv
        %y = conv2d %x, @w {"stride":2,"padding":1} : T[1, 6, 4, 5]
        output y %y
        "#,
    ),
    (
        "conv2d_wide_pad",
        r#"
        input %x: T[2, 4, 5, 6]
        weight @w: T[2, 4, 1, 3] = tensor f32[2, 4, 1, 3]
        %y = conv2d %x, @w {"stride":1,"padding":1} : T[2, 2, 7, 6]
        output y %y
        "#,
    ),
    (
        "conv2d_of_values",
        r#"
        input %x: T[1, 4, 5, 6]
        input %w: T[2, 4, 3, 3]
        input %b: T[2]
        %y = conv2d %x, %w, %b {"stride":1,"padding":1} : T[1, 2, 5, 6]
        output y %y
        "#,
    ),
    (
        "chain_of_maps",
        r#"
        input %x: T[2, 8, 4, 4]
        weight @w0: T[8, 8, 3, 3] = tensor f32[8, 8, 3, 3]
        weight @b0: T[8] = tensor f32[8]
        weight @gn.w: T[8] = tensor f32[8]
        weight @gn.b: T[8] = tensor f32[8]
        weight @scale: T[8, 1, 1] = tensor f32[8, 1, 1]
        weight @w1: T[4, 8, 3, 3] = tensor f32[4, 8, 3, 3]
        scope block
        %0 = conv2d %x, @w0, @b0 {"stride":1,"padding":1} : T[2, 8, 4, 4]
        %1 = group_norm %0, @gn.w, @gn.b {"groups":4,"eps":1e-6} : T[2, 8, 4, 4]
        %2 = silu %1 : T[2, 8, 4, 4]
        %3 = mul %2, @scale : T[2, 8, 4, 4]
        %4 = conv2d %3, @w0, @b0 {"stride":1,"padding":1} : T[2, 8, 4, 4]
        %5 = add %4, %0 : T[2, 8, 4, 4]
        %6 = upsample_nearest %5 {"factor":2} : T[2, 8, 8, 8]
        %7 = tokens_from_map %6 : T[2, 64, 8]
        %8 = tanh %7 : T[2, 64, 8]
        %9 = map_from_tokens %8 {"grid":[8,8]} : T[2, 8, 8, 8]
        %10 = conv2d %9, @w1 {"stride":1,"padding":1} : T[2, 4, 8, 8]
        %11 = relu %10 : T[2, 4, 8, 8]
        output y %11
        "#,
    ),
    (
        "turn_that_stays",
        r#"
        input %x: T[1, 4, 3, 3]
        weight @w: T[4, 4, 1, 1] = tensor f32[4, 4, 1, 1]
        %0 = conv2d %x, @w {"stride":1,"padding":0} : T[1, 4, 3, 3]
        %1 = add %0, %x : T[1, 4, 3, 3]
        %2 = softmax %1 : T[1, 4, 3, 3]
        output y %2
        output z %0
        "#,
    ),
    (
        "split_many",
        r#"
        input %x: T[2, 10]
        %a, %b, %c, %d, %e = split %x {"axis":1,"parts":5} : T[2, 2], T[2, 2], T[2, 2], T[2, 2], T[2, 2]
        %p, %q = split %a {"axis":0,"parts":2} : T[1, 2], T[1, 2]
        %y = concat %e, %d, %c, %b, %a, %p, %q {"axis":0} : T[12, 2]
        output y %y
        "#,
    ),
    (
        "alone",
        r#"
        input %x: T[2, 10]
        %a = concat %x {"axis":1} : T[2, 10]
        %b = slice %a {"starts":[0,0],"sizes":[2,10]} : T[2, 10]
        %c = split %b {"axis":0,"parts":1} : T[2, 10]
        %y = relu %c : T[2, 10]
        output y %y
        "#,
    ),
    (
        "embedding",
        r"
        input %ids: i32[2, 3]
        weight @table: T[7, 40] = tensor f32[7, 40]
        %y = embedding %ids, @table : T[2, 3, 40]
        output y %y
        ",
    ),
    (
        "rms_norm",
        r#"
        input %x: T[2, 3, 16]
        %y = rms_norm %x {"eps":1e-6} : T[2, 3, 16]
        output y %y
        "#,
    ),
    (
        "rms_norm_weight",
        r#"
        input %x: T[2, 3, 400]
        weight @w: T[400] = tensor f32[400]
        scope norm1
        %y = rms_norm %x, @w {"eps":1e-5} : T[2, 3, 400]
        output y %y
        "#,
    ),
    (
        "layer_norm",
        r#"
        input %x: T[2, 3, 16]
        %y = layer_norm %x {"eps":1e-6} : T[2, 3, 16]
        output y %y
        "#,
    ),
    (
        "layer_norm_weight",
        r#"
        input %x: T[2, 16]
        weight @w: T[16] = tensor f32[16]
        %y = layer_norm %x, @w {"eps":1e-5} : T[2, 16]
        output y %y
        "#,
    ),
    (
        "layer_norm_bias",
        r#"
        input %x: T[2, 16]
        weight @w: T[16] = tensor f32[16]
        weight @b: T[16] = tensor f32[16]
        %y = layer_norm %x, @w, @b {"eps":1e-5} : T[2, 16]
        output y %y
        "#,
    ),
    (
        "group_norm",
        r#"
        input %x: T[2, 8, 3, 5]
        weight @w: T[8] = tensor f32[8]
        weight @b: T[8] = tensor f32[8]
        %y = group_norm %x, @w, @b {"groups":4,"eps":1e-6} : T[2, 8, 3, 5]
        output y %y
        "#,
    ),
    (
        "group_norm_one",
        r#"
        input %x: T[1, 6, 4, 4]
        weight @w: T[6] = tensor f32[6]
        weight @b: T[6] = tensor f32[6]
        %y = group_norm %x, @w, @b {"groups":6,"eps":1e-3} : T[1, 6, 4, 4]
        output y %y
        "#,
    ),
    (
        "attention_dense",
        r#"
        input %q: T[2, 6, 4, 8]
        input %k: T[2, 5, 2, 8]
        input %v: T[2, 5, 2, 8]
        %y = attention %q, %k, %v {"pattern":"dense","scale":0.35} : T[2, 6, 4, 8]
        output y %y
        "#,
    ),
    (
        "attention_mask",
        r#"
        input %q: T[2, 6, 4, 8]
        input %k: T[2, 5, 2, 8]
        input %v: T[2, 5, 2, 8]
        input %mask: T[2, 5]
        %y = attention %q, %k, %v, %mask {"pattern":"dense","scale":0.35} : T[2, 6, 4, 8]
        output y %y
        "#,
    ),
    (
        "attention_causal",
        r#"
        input %q: T[1, 6, 4, 8]
        input %k: T[1, 6, 4, 8]
        input %v: T[1, 6, 4, 8]
        %y = attention %q, %k, %v {"pattern":"causal","scale":0.35} : T[1, 6, 4, 8]
        output y %y
        "#,
    ),
    (
        "attention_neighborhood",
        r#"
        input %q: T[2, 64, 4, 4]
        input %k: T[2, 64, 2, 4]
        input %v: T[2, 64, 2, 4]
        %y = attention %q, %k, %v {"pattern":{"neighborhood":{"grid":[8,8],"tile":2,"radius":1}},"scale":0.5} : T[2, 64, 4, 4]
        output y %y
        "#,
    ),
    (
        "rotary",
        r#"
        input %x: T[1, 12, 2, 8]
        %y = rotary %x {"theta":10000.0,"grid":{"rows":3,"cols":4,"start":0.5,"stride":2.0}} : T[1, 12, 2, 8]
        output y %y
        "#,
    ),
    (
        "silu",
        r"
        input %x: T[2, 9]
        %y = silu %x : T[2, 9]
        output y %y
        ",
    ),
    (
        "gelu_erf",
        r#"
        input %x: T[2, 9]
        %y = gelu %x {"form":"erf"} : T[2, 9]
        output y %y
        "#,
    ),
    (
        "gelu_tanh",
        r#"
        input %x: T[2, 9]
        %y = gelu %x {"form":"tanh"} : T[2, 9]
        output y %y
        "#,
    ),
    (
        "gelu_quick",
        r#"
        input %x: T[2, 9]
        %y = gelu %x {"form":"quick"} : T[2, 9]
        output y %y
        "#,
    ),
    (
        "split",
        r#"
        input %x: T[2, 6, 3]
        %a, %b, %c = split %x {"axis":1,"parts":3} : T[2, 2, 3], T[2, 2, 3], T[2, 2, 3]
        %y = add %c, %a : T[2, 2, 3]
        output y %y
        output b %b
        "#,
    ),
    (
        "concat",
        r#"
        input %a: T[2, 3]
        input %b: T[2, 5]
        %y = concat %a, %b, %a {"axis":1} : T[2, 11]
        output y %y
        "#,
    ),
    (
        "heads",
        r#"
        input %x: T[2, 3, 8]
        %h = split_heads %x {"head_dim":4} : T[2, 3, 2, 4]
        %s = relu %h : T[2, 3, 2, 4]
        %y = merge_heads %s : T[2, 3, 8]
        output y %y
        output h %h
        "#,
    ),
    (
        "tokens",
        r#"
        input %x: T[2, 3, 4, 5]
        %t = tokens_from_map %x : T[2, 20, 3]
        %s = tanh %t : T[2, 20, 3]
        %y = map_from_tokens %s {"grid":[5,4]} : T[2, 3, 5, 4]
        output y %y
        "#,
    ),
    (
        "split_tokens",
        r#"
        input %x: T[2, 6, 12]
        %y = split_tokens %x {"grid":[2,3],"factor":2} : T[2, 24, 3]
        output y %y
        "#,
    ),
    (
        "upsample_nearest",
        r#"
        input %x: T[2, 3, 4, 5]
        %y = upsample_nearest %x {"factor":3} : T[2, 3, 12, 15]
        output y %y
        "#,
    ),
    (
        "binary",
        r"
        input %a: T[2, 3, 4]
        input %b: T[3, 1]
        %s = add %a, %b : T[2, 3, 4]
        %d = sub %b, %s : T[2, 3, 4]
        %y = mul %d, %d : T[2, 3, 4]
        output y %y
        output d %d
        ",
    ),
    (
        "matmul",
        r#"
        input %a: T[2, 1, 3, 4]
        input %b: T[5, 4, 6]
        %y = matmul %a, %b {"transpose_b":false} : T[2, 5, 3, 6]
        output y %y
        "#,
    ),
    (
        "matmul_transposed",
        r#"
        input %a: T[2, 3, 4]
        input %b: T[2, 6, 4]
        weight @w: T[5, 6] = tensor f32[5, 6]
        %p = matmul %a, %b {"transpose_b":true} : T[2, 3, 6]
        %y = matmul %p, @w {"transpose_b":true} : T[2, 3, 5]
        output y %y
        "#,
    ),
    (
        "softmax",
        r"
        input %x: T[2, 3, 7]
        %y = softmax %x : T[2, 3, 7]
        output y %y
        ",
    ),
    (
        "reduce_mean",
        r#"
        input %x: T[2, 3, 7]
        %a = reduce_mean %x {"axis":1} : T[2, 1, 7]
        %b = reduce_mean %a {"axis":2} : T[2, 1, 1]
        output a %a
        output b %b
        "#,
    ),
    (
        "unary",
        r"
        input %x: T[2, 9]
        %a = sigmoid %x : T[2, 9]
        %b = rsqrt %a : T[2, 9]
        %c = tanh %x : T[2, 9]
        %d = relu %x : T[2, 9]
        %e = sin %x : T[2, 9]
        %f = cos %x : T[2, 9]
        output a %a
        output b %b
        output c %c
        output d %d
        output e %e
        output f %f
        ",
    ),
    (
        "transpose",
        r#"
        input %x: T[2, 3, 4, 5]
        %y = transpose %x {"perm":[2,0,3,1]} : T[4, 2, 5, 3]
        output y %y
        "#,
    ),
    (
        "reshape",
        r#"
        input %x: T[2, 3, 4]
        input %s: T[]
        %y = reshape %x {"shape":[4,6]} : T[4, 6]
        %z = reshape %s {"shape":[1,1]} : T[1, 1]
        %w = reduce_mean %y {"axis":0} : T[1, 6]
        output y %y
        output z %z
        output w %w
        "#,
    ),
    (
        "to_scalar",
        r#"
        input %x: T[1, 1]
        %y = reshape %x {"shape":[]} : T[]
        %z = add %y, %y : T[]
        output z %z
        "#,
    ),
    (
        "slice",
        r#"
        input %x: T[5, 6, 7]
        %a = slice %x {"starts":[0,2,0],"sizes":[5,3,7]} : T[5, 3, 7]
        %y = slice %a {"starts":[0,0,6],"sizes":[5,3,1]} : T[5, 3, 1]
        output y %y
        "#,
    ),
    (
        "slice_twice_used",
        r#"
        input %x: T[5, 6]
        %a = slice %x {"starts":[1,0],"sizes":[3,6]} : T[3, 6]
        %b = slice %a {"starts":[0,0],"sizes":[3,2]} : T[3, 2]
        %y = reduce_mean %a {"axis":1} : T[3, 1]
        output b %b
        output y %y
        "#,
    ),
    (
        "ports",
        r"
        input %x: T[2, 3]
        input %unused: i32[4]
        weight @w: T[2, 3] = tensor f32[2, 3]
        weight @big: T[40, 20] = tensor f32[40, 20]
        %y = add %x, @w : T[2, 3]
        output y %y
        output same %y
        output input %x
        output weight @w
        output large @big
        ",
    ),
    (
        "names",
        r#"
        input %MatMul: T[2, 2]
        weight @Add: T[2, 2] = tensor f32[2, 2]
        weight @number.1: T[2, 2] = tensor f32[2, 2]
        %a = add %MatMul, @Add : T[2, 2]
        %b = matmul %a, @number.1 {"transpose_b":false} : T[2, 2]
        %c = add %b, @Add : T[2, 2]
        scope a.b
        %d = add %b, %c : T[2, 2]
        output Relu %d
        "#,
    ),
    (
        "shared_bytes",
        r#"
        input %x: T[1, 400]
        weight @a: T[1, 400] = tensor f32[400] t | reshape 1 400
        weight @b: T[20, 20] = tensor f32[400] t | reshape 20 20
        weight @c: T[20, 20] = tensor f32[400] t | reshape 20 20 | transpose 1 0
        %y = add %x, @a : T[1, 400]
        %z = matmul @b, @c {"transpose_b":false} : T[20, 20]
        output y %y
        output z %z
        "#,
    ),
    (
        "large",
        r#"
        input %x: T[2, 600]
        weight @w: T[900, 600] = tensor f32[900, 600]
        weight @b: T[900] = tensor f32[900]
        weight @v: T[600, 900] = tensor f32[600, 900]
        %h = linear %x, @w, @b : T[2, 900]
        %g = gelu %h {"form":"tanh"} : T[2, 900]
        %y = linear %g, @v : T[2, 600]
        output y %y
        "#,
    ),
];

/// Graphs of mixed types, as they are.
pub const MIXED: &[(&str, &str)] = &[
    (
        "cast",
        r#"
        input %x: f32[2, 9]
        %a = cast %x {"dtype":"f16"} : f16[2, 9]
        %b = cast %a {"dtype":"f32"} : f32[2, 9]
        %y = add %x, %b : f32[2, 9]
        output y %y
        output a %a
        "#,
    ),
    (
        "timestep_embedding",
        r#"
        input %t: f32[2]
        %y = timestep_embedding %t {"dim":8} : f32[2, 1, 8]
        output y %y
        "#,
    ),
    (
        "stored_f16",
        r#"
        input %ids: i32[2, 3]
        weight @table: f16[7, 200] = tensor f32[7, 200]
        weight @w: f16[300, 200] = tensor bf16[300, 200]
        weight @b: f16[300] = tensor f32[300]
        weight @norm: f16[300] = tensor f32[300]
        scope embed
        %0 = cast @table {"dtype":"f32"} : f32[7, 200]
        %1 = embedding %ids, %0 : f32[2, 3, 200]
        scope block.0.proj
        %2 = cast @w {"dtype":"f32"} : f32[300, 200]
        %3 = cast @b {"dtype":"f32"} : f32[300]
        %4 = linear %1, %2, %3 : f32[2, 3, 300]
        scope block.0.norm
        %5 = cast @norm {"dtype":"f32"} : f32[300]
        %6 = rms_norm %4, %5 {"eps":1e-6} : f32[2, 3, 300]
        output y %6
        "#,
    ),
    (
        "stored_f16_map",
        r#"
        input %x: f32[1, 8, 6, 6]
        weight @gn.w: f16[8] = tensor f32[8]
        weight @gn.b: f16[8] = tensor f32[8]
        weight @w: f16[16, 8, 3, 3] = tensor f32[16, 8, 3, 3]
        %0 = cast @gn.w {"dtype":"f32"} : f32[8]
        %1 = cast @gn.b {"dtype":"f32"} : f32[8]
        %2 = group_norm %x, %0, %1 {"groups":2,"eps":1e-6} : f32[1, 8, 6, 6]
        %3 = silu %2 : f32[1, 8, 6, 6]
        %4 = cast @w {"dtype":"f32"} : f32[16, 8, 3, 3]
        %5 = conv2d %3, %4 {"stride":1,"padding":1} : f32[1, 16, 6, 6]
        output y %5
        "#,
    ),
    (
        "integer_weight",
        r"
        weight @ids: i32[5] = tensor i32[5]
        weight @table: f32[9, 4] = tensor f32[9, 4]
        input %x: f32[4]
        %e = embedding @ids, @table : f32[5, 4]
        %y = add %e, %x : f32[5, 4]
        output y %y
        ",
    ),
];
