//! The `snapc` command: words in, words out; every decision is the driver's.

mod args;
mod assemble;
mod quantize;
mod report;
mod report_bundle;
mod report_plan;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use args::{
    BundleArgs, Cli, Command, CompileArgs, CompileWords, DiffArgs, FormArg, Network, Networks, PlanArgs,
    PrintArgs, RunArgs, Targets, VerifyArgs,
};
use clap::{CommandFactory, Parser};
use quantize::CalibrateArgs;
use report::{Terminal, print, print_json};
use serde_json::json;
use snapc_driver::{
    Bake, BundleOptions, CalibrateOptions, Calibrated, CompileOptions, Form, GenerateOptions, Layout,
    Project, ShowOptions, Target, VerifyOptions, Width, bundle, calibrate, compile, diff, generate, inspect,
    is_bundle, is_compiled, merge, plan, show, use_threads, verify,
};
use snapc_ir::{Class, Error, Place, Result};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let threads = cli.jobs.map_or(Ok(()), use_threads);
    match threads.and_then(|()| dispatch(cli.command, cli.json)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(report::fail(&error, cli.json)),
    }
}

fn dispatch(command: Command, json: bool) -> Result<()> {
    match command {
        Command::Plan(args) => run_plan(args, json),
        Command::Compile(args) => run_compile(args, json),
        Command::Bundle(args) => run_bundle(args, json),
        Command::Run(args) => run_generate(args, json),
        Command::Calibrate(args) => run_calibrate(args, json),
        Command::Verify(args) => run_verify(args, json),
        Command::Diff(args) => run_diff(args, json),
        Command::Inspect(args) => {
            let path = match args.path {
                Some(path) => path,
                None => pipeline(None, &project()?)?,
            };
            let found = inspect(&path)?;
            if json {
                print_json(&serde_json::to_value(&found).map_err(Error::bug)?);
            } else {
                print(&report::inspection(&found));
            }
            Ok(())
        }
        Command::Assemble(args) => assemble::run(args, json),
        Command::Print(args) => run_print(args, json),
        Command::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "snapc", &mut script);
            let script = String::from_utf8_lossy(&script);
            if json {
                print_json(&json!({"shell": args.shell.to_string(), "script": script}));
            } else {
                print(&script);
            }
            Ok(())
        }
    }
}

fn project() -> Result<Project> {
    Project::read(Path::new(""))
}

fn pipeline(given: Option<PathBuf>, project: &Project) -> Result<PathBuf> {
    given.or_else(|| project.pipeline.clone()).ok_or_else(|| {
        Error::usage("which pipeline? no folder is named")
            .help("name the pipeline's folder, or write `pipeline = \"..\"` into snapc.toml")
    })
}

/// A word of snapc.toml in the type that it stands for.
fn parsed<T: std::str::FromStr<Err = String>>(word: &str) -> Result<T> {
    word.parse().map_err(|message: String| Error::input(message).at(Place::File(PathBuf::from("snapc.toml"))))
}

/// The option where it is given, else the project's word, else the default.
fn choose<T: std::str::FromStr<Err = String> + Default>(
    given: Option<T>,
    word: &Option<String>,
) -> Result<T> {
    match (given, word) {
        (Some(value), _) => Ok(value),
        (None, Some(word)) => parsed(word),
        (None, None) => Ok(T::default()),
    }
}

fn bake(given: Option<Bake>, project: &Project) -> Result<Option<Bake>> {
    match (given, &project.bake) {
        (None, Some(word)) => parsed(word).map(Some),
        _ => Ok(given),
    }
}

fn network(given: Network, project: &Project) -> Option<Width> {
    let first = || project.subnets.as_ref().and_then(|subnets| subnets.first().cloned());
    match (given.subnet, given.width) {
        (_, Some(width)) => Some(Width::Numbers(width)),
        (Some(name), None) => Some(Width::Subnet(name)),
        (None, None) => first().map(Width::Subnet),
    }
}

/// What the words of `compile` and `plan` ask for.
fn compile_options(words: CompileWords) -> Result<CompileOptions> {
    let project = project()?;
    let widths = networks(words.network, &project.subnets);
    let how = words.how;
    let mut targets: Vec<Target> = words.target.into_iter().flat_map(Targets::list).collect();
    if targets.is_empty() {
        let words: Vec<Targets> =
            project.targets.iter().flatten().map(|word| parsed(word)).collect::<Result<_>>()?;
        targets = words.into_iter().flat_map(Targets::list).collect();
    }
    Ok(CompileOptions {
        pipeline: pipeline(words.pipeline, &project)?,
        widths,
        targets,
        parts: words.part,
        sizes: words.size,
        one_file: words.one_file,
        precision: choose(how.precision, &project.precision)?,
        min_os: choose(how.min_os, &project.min_os)?,
        device: how.device,
        bake: bake(how.baking.bake, &project)?,
        steps: how.baking.steps,
        guidance: how.baking.guidance,
        ranges: how.ranges,
        quantization: words.quantization.options()?,
        layout: words.layout,
        provenance: how.provenance,
        share: false,
        max_memory: how.max_memory,
        output: words.output.or(project.output).unwrap_or_else(|| PathBuf::from("dist")),
    })
}

/// The networks that are named, or else those of the project.
fn networks(given: Networks, project: &Option<Vec<String>>) -> Vec<Width> {
    let mut widths: Vec<Width> = given.subnet.into_iter().map(Width::Subnet).collect();
    widths.extend(given.width.into_iter().map(Width::Numbers));
    match widths.is_empty() {
        true => project.iter().flatten().cloned().map(Width::Subnet).collect(),
        false => widths,
    }
}

fn run_bundle(args: BundleArgs, json: bool) -> Result<()> {
    let mut project = project()?;
    let config = std::mem::take(&mut project.bundle);
    let own = config.subnets.as_ref().or(project.subnets.as_ref()).cloned();
    let BundleArgs { pipeline, platform, network, size, elastic, chunk_size, how, output, quantization } =
        args;
    let elastic = elastic.then_some(chunk_size);
    let place = || {
        project.output.clone().unwrap_or_else(|| PathBuf::from("dist")).join("bundle").join(platform.name())
    };
    let words = CompileWords {
        pipeline,
        network: Networks { subnet: Vec::new(), width: Vec::new() },
        target: vec![Targets::One(platform.target())],
        part: Vec::new(),
        size: size.into_iter().collect(),
        one_file: false,
        layout: Layout::Default,
        how,
        output: Some(output.unwrap_or_else(place)),
        quantization,
    };
    let compile = CompileOptions { widths: networks(network, &own), ..compile_options(words)? };
    let mut report = Terminal::new(json);
    let done = bundle(&BundleOptions { platform, config, elastic, compile }, &mut report)?;
    report.finish();
    if json {
        print_json(&json!({"folder": done.folder, "bundle": done.bundle, "warnings": report.warnings}));
    } else {
        print(&report_bundle::bundled(&done.folder, &done.bundle));
    }
    Ok(())
}

fn run_compile(args: CompileArgs, json: bool) -> Result<()> {
    let options = compile_options(args.words)?;
    let mut report = Terminal::new(json);
    let done = compile(&options, &mut report)?;
    report.finish();
    if json {
        print_json(&report::compiled_json(&done, &report.warnings));
    } else {
        print(&report::compiled(&done, args.explain));
    }
    Ok(())
}

fn run_plan(args: PlanArgs, json: bool) -> Result<()> {
    let plans = plan(&compile_options(args.words)?)?;
    if json {
        print_json(&json!({"plans": plans}));
    } else {
        print(&report_plan::planned(&plans));
    }
    plans.into_iter().find_map(|plan| plan.refused).map_or(Ok(()), Err)
}

fn run_diff(args: DiffArgs, json: bool) -> Result<()> {
    let found = diff(&args.a, &args.b)?;
    if json {
        print_json(&serde_json::to_value(&found).map_err(Error::bug)?);
    } else {
        print(&report_plan::differences(&found));
    }
    match found.changes.len() {
        0 => Ok(()),
        count => Err(Error::new(
            Class::Verification,
            format!("{} and {} differ in {count} fields", args.a.display(), args.b.display()),
        )),
    }
}

fn run_generate(args: RunArgs, json: bool) -> Result<()> {
    let (project, nothing) = (project()?, Project::default());
    let pipeline = pipeline(args.pipeline, &project)?;
    // A compiled folder fixes its subnet: the project's is for pipelines.
    let compiled = is_compiled(&pipeline) || is_bundle(&pipeline);
    let width = network(args.network, if compiled { &nothing } else { &project });
    let options = GenerateOptions {
        pipeline,
        prompt: args.prompt,
        negative_prompt: args.negative_prompt,
        width,
        steps: args.steps,
        guidance: args.guidance,
        seed: args.seed,
        size: args.size,
        noise: args.noise,
        output: args.output,
        save_latents: args.save_latents,
    };
    let mut report = Terminal::new(json);
    let done = generate(&options, &mut report)?;
    report.finish();
    if json {
        print_json(&report::generated_json(&done, &options.output, &report.warnings));
    } else {
        let steps = done.schedule.sigmas.len() - 1;
        print(&format!(
            "{}: {} x {} pixels, {steps} steps, network of width {}\n",
            options.output.display(),
            done.size[0],
            done.size[1],
            done.width
        ));
    }
    Ok(())
}

fn run_calibrate(args: CalibrateArgs, json: bool) -> Result<()> {
    let mut report = Terminal::new(json);
    let done = if args.merge.is_empty() {
        let project = project()?;
        let options = CalibrateOptions {
            pipeline: pipeline(args.pipeline, &project)?,
            width: network(args.network, &project),
            size: args.size,
            steps: args.steps,
            guidance: args.guidance,
            prompts: args.prompts,
            count: args.count,
            moments: args.moments,
            shard: args.shard,
            output: args.output,
        };
        calibrate(&options, &mut report)?
    } else {
        merge(&args.merge, &args.output)?
    };
    report.finish();
    let Calibrated { output, prompts, resumed, layers } = done;
    if json {
        let warnings = report.warnings;
        print_json(
            &json!({"output": output, "prompts": prompts, "resumed": resumed, "layers": layers, "warnings": warnings}),
        );
    } else {
        print(&format!("{}: {layers} layers over {prompts} prompts\n", output.display()));
    }
    Ok(())
}

fn run_verify(args: VerifyArgs, json: bool) -> Result<()> {
    let project = project()?;
    let options = VerifyOptions {
        pipeline: pipeline(args.pipeline, &project)?,
        dist: args.dist.or(project.output).unwrap_or_else(|| PathBuf::from("dist")),
        runtime: args.runtime,
        prompts: args.prompts,
        max_loss: args.max_loss,
        record: args.record,
    };
    let mut report = Terminal::new(json);
    let done = verify(&options, &mut report)?;
    report.finish();
    if json {
        print_json(&json!({"folders": done, "warnings": report.warnings}));
    } else {
        print(&report::verified(&done));
    }
    let failed: Vec<String> =
        done.iter().filter(|one| !one.passed).map(|one| one.folder.display().to_string()).collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::new(Class::Verification, format!("past its thresholds: {}", failed.join(", ")))
        .help("the table names the part; --precision f32 tells rounding from a fault"))
}

fn run_print(args: PrintArgs, json: bool) -> Result<()> {
    let project = project()?;
    let target = match (args.target, project.targets.iter().flatten().next()) {
        (Some(target), _) => target,
        (None, Some(word)) => parsed(word)?,
        (None, None) => Target::CoreMl,
    };
    let options = ShowOptions {
        width: network(args.network, &project),
        pipeline: pipeline(args.pipeline, &project)?,
        part: args.part,
        after: args.after,
        target,
        precision: choose(args.precision, &project.precision)?,
        min_os: choose(args.min_os, &project.min_os)?,
        device: args.device,
        size: args.size,
        bake: bake(args.baking.bake, &project)?,
        steps: args.baking.steps,
        guidance: args.baking.guidance,
        quantize: args.quantize,
        form: match args.form {
            FormArg::Sir => Form::Sir,
            FormArg::Dot => Form::Dot,
        },
    };
    let text = show(&options)?;
    if json {
        print_json(&json!({"part": options.part.name(), "after": options.after, "text": text}));
    } else {
        print(&text);
    }
    Ok(())
}
