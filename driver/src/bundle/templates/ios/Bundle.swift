// Written by snapc. Prompt to picture with the Core ML packages in `Models`.
import CoreGraphics
import CoreML
import Foundation

/// What keeps a picture from being drawn.
public enum __NAME__Error: Error, Equatable, Sendable {
    /// A file of the models is not where it should be.
    case missing(String)
    /// A file is not what snapc wrote, or a network gives something else than it should.
    case damaged(String)
    /// The decoder gives numbers that are no pixels, or the system makes no picture of them.
    case noImage
}

/// Draws pictures of prompts. One part is in memory at a time: the text encoder, then the transformer, then the decoder.
// It is not changed after `init`, and Core ML's configuration is only read.
public final class __NAME__: @unchecked Sendable {
    /// The network that draws.
    public let subnet: Subnet
    private let models: URL
    private let shared: URL
    private let configuration: MLModelConfiguration
    private let tokenizer: Tokenizer

    /// Compiles the three networks where that was not done before, which takes some time at the first start.
    /// - Parameters:
    ///   - models: a folder with `subnets`, and `shared` if it is not this package's; the one of this package where nothing is said.
    ///   - subnet: the network; the one that the table of devices names for this device where nothing is said.
    public init(
        models: URL? = nil, subnet: Subnet? = nil, configuration: MLModelConfiguration = MLModelConfiguration()
    ) async throws {
        let own = Bundle.module.url(forResource: "Models", withExtension: nil)
        guard let folder = models ?? own else { throw __NAME__Error.missing("Models") }
        self.models = folder
        let hasShared = FileManager.default.fileExists(atPath: folder.appendingPathComponent("shared").path)
        shared = hasShared ? folder : own ?? folder
        self.subnet = subnet ?? __NAME__.pick()
        self.configuration = configuration
        tokenizer = try Tokenizer(
            file: shared.appendingPathComponent("shared/tokenizer/tokenizer.json"), settings: Constants.tokenizer)
        _ = try await transformer().compiled(in: folder)
        for part in [Constants.textEncoder, Constants.vaeDecoder] {
            _ = try await part.compiled(in: shared)
        }
    }

    /// The subnet for a device: this one where nothing is said.
    public static func pick(
        memory: UInt64 = ProcessInfo.processInfo.physicalMemory, chip: String = __NAME__.chip
    ) -> Subnet {
        for device in Constants.devices where device.fits(memory: memory, chip: chip) {
            return device.subnet
        }
        // The last row fits every device.
        return Constants.devices[Constants.devices.count - 1].subnet
    }

    /// The name of this device's model, as `iPhone15,2`.
    public static var chip: String {
        var info = utsname()
        uname(&info)
        return withUnsafeBytes(of: &info.machine) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }

    /// Draws a picture. A prompt that is too long is cut; the same seed gives the same noise as `snapc run --seed`.
    /// - Parameters:
    ///   - negativePrompt: what it shall not show; without effect where the bundle was not made with guidance.
    ///   - progress: told the steps that are done, of how many.
    public func picture(
        prompt: String, negativePrompt: String = "", seed: UInt64 = 0, progress: ((Int, Int) -> Void)? = nil
    ) async throws -> CGImage {
        let texts = try await self.texts(prompt: prompt, negativePrompt: negativePrompt)
        let latent = try await self.latent(texts: texts, seed: seed, progress: progress)
        let decoder = try await Network(Constants.vaeDecoder, in: shared, configuration)
        return try image(decoder.run(["latent": .floats(latent)]))
    }

    private func transformer() throws -> Part {
        guard let part = Constants.transformers[subnet] else { throw __NAME__Error.missing(subnet.rawValue) }
        return part
    }

    /// What the transformer takes of the prompts.
    private func texts(prompt: String, negativePrompt: String) async throws -> [String: Numbers] {
        let encoder = try await Network(Constants.textEncoder, in: shared, configuration)
        var texts: [String: Numbers] = [:]
        let prompts = Constants.guided ? [("", prompt), ("negative_", negativePrompt)] : [("", prompt)]
        for (prefix, prompt) in prompts {
            let (ids, mask) = tokenizer.encode(prompt)
            texts[prefix + "text"] = .floats(try encoder.run(["input_ids": .ints(ids)]))
            texts[prefix + "text_mask"] = .floats(mask)
        }
        return texts
    }

    /// From noise to the last latent.
    private func latent(
        texts: [String: Numbers], seed: UInt64, progress: ((Int, Int) -> Void)?
    ) async throws -> [Float] {
        let network = try await Network(transformer(), in: models, configuration)
        let (count, steps) = (Constants.latentCount, Constants.steps)
        var noise = Noise(seed: seed)
        var latent = noise.normals(count)
        var inputs = texts
        if Constants.unrolled {
            inputs["noise"] = .floats(latent)
            for step in 1..<(Constants.stochastic ? steps : 1) {
                inputs["noise\(step)"] = .floats(noise.normals(count))
            }
            latent = try network.run(inputs)
            progress?(steps, steps)
            return latent
        }
        for step in 0..<steps {
            try Task.checkCancellation()
            inputs["latent"] = .floats(latent)
            inputs["step"] = .ints([Int32(step)])
            if Constants.stochastic {
                let last = step + 1 == steps
                inputs["noise"] = .floats(last ? [Float](repeating: 0, count: count) : noise.normals(count))
            }
            latent = try network.run(inputs)
            progress?(step + 1, steps)
        }
        return latent
    }

    /// The picture of the decoder's numbers: planes of red, green and blue in [-1, 1].
    private func image(_ planes: [Float]) throws -> CGImage {
        guard planes.allSatisfy({ $0.isFinite }) else { throw __NAME__Error.noImage }
        let (height, width) = (Constants.height, Constants.width)
        let places = height * width
        var pixels = [UInt8](repeating: 255, count: 4 * places)
        for place in 0..<places {
            for colour in 0..<3 {
                let value = min(max(planes[colour * places + place], -1), 1)
                pixels[4 * place + colour] = UInt8(((value + 1) * 127.5).rounded(.toNearestOrEven))
            }
        }
        guard let provider = CGDataProvider(data: Data(pixels) as CFData),
            let space = CGColorSpace(name: CGColorSpace.sRGB),
            let image = CGImage(
                width: width, height: height, bitsPerComponent: 8, bitsPerPixel: 32, bytesPerRow: 4 * width,
                space: space, bitmapInfo: CGBitmapInfo(rawValue: CGImageAlphaInfo.noneSkipLast.rawValue),
                provider: provider, decode: nil, shouldInterpolate: false, intent: .defaultIntent)
        else { throw __NAME__Error.noImage }
        return image
    }
}

/// A class of devices and its network.
struct DeviceClass {
    let name: String
    let memory: UInt64
    let chips: [String]
    let subnet: __NAME__.Subnet

    func fits(memory: UInt64, chip: String) -> Bool {
        memory >= self.memory && (chips.isEmpty || chips.contains(chip))
    }
}

/// Numbers for an input.
enum Numbers {
    case floats([Float])
    case ints([Int32])
}

enum PortType {
    case float32
    case int32
}

/// An input or output.
struct Port {
    let name: String
    let type: PortType
    let shape: [Int]

    var count: Int { shape.reduce(1, *) }
}

/// A network in the folder of the models.
struct Part {
    let path: String
    /// The SHA-256 of its files' digests.
    let digest: String
    let inputs: [Port]
    let output: Port

    /// The model as Core ML runs it. A package is compiled once and kept among the caches, which the system may clear.
    func compiled(in models: URL) async throws -> URL {
        let files = FileManager.default
        let package = models.appendingPathComponent(path)
        // A build may have compiled it: `xcrun coremlcompiler compile`.
        let beside = package.deletingPathExtension().appendingPathExtension("mlmodelc")
        if files.fileExists(atPath: beside.path) { return beside }
        let caches = try files.url(for: .cachesDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
        let kept = caches.appendingPathComponent("snapc/\(digest).mlmodelc")
        if files.fileExists(atPath: kept.path) { return kept }
        guard files.fileExists(atPath: package.path) else { throw __NAME__Error.missing(path) }
        let made = try await MLModel.compileModel(at: package)
        try files.createDirectory(at: kept.deletingLastPathComponent(), withIntermediateDirectories: true)
        do {
            try files.moveItem(at: made, to: kept)
        } catch {
            // Another one was faster: the models are the same.
            guard files.fileExists(atPath: kept.path) else { throw error }
        }
        return kept
    }
}

/// A network in memory.
struct Network {
    private let model: MLModel
    private let part: Part

    init(_ part: Part, in models: URL, _ configuration: MLModelConfiguration) async throws {
        self.part = part
        model = try await MLModel.load(contentsOf: part.compiled(in: models), configuration: configuration)
    }

    /// Runs it; the numbers of its one output.
    func run(_ values: [String: Numbers]) throws -> [Float] {
        var features: [String: MLFeatureValue] = [:]
        for port in part.inputs {
            switch (port.type, values[port.name]) {
            case (.float32, .floats(let numbers)?) where numbers.count == port.count:
                features[port.name] = MLFeatureValue(
                    shapedArray: MLShapedArray<Float>(scalars: numbers, shape: port.shape))
            case (.int32, .ints(let numbers)?) where numbers.count == port.count:
                features[port.name] = MLFeatureValue(
                    shapedArray: MLShapedArray<Int32>(scalars: numbers, shape: port.shape))
            default:
                throw __NAME__Error.damaged("\(part.path): input \(port.name)")
            }
        }
        let outputs = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: features))
        guard let array = outputs.featureValue(for: part.output.name)?.shapedArrayValue(of: Float.self),
            array.shape == part.output.shape
        else { throw __NAME__Error.damaged("\(part.path): output \(part.output.name)") }
        return array.scalars
    }
}
