// Written by snapc: what this bundle holds. bundle.json has the same as JSON.

extension __NAME__ {
    /// The networks, the smallest first.
    public enum Subnet: String, CaseIterable, Sendable {
__CASES__
    }
}

enum Constants {
    static let textEncoder = __TEXT_ENCODER__
    static let transformers: [__NAME__.Subnet: Part] = [
__TRANSFORMERS__
    ]
    static let vaeDecoder = __VAE_DECODER__

    /// Whether one run of the transformer is all steps.
    static let unrolled = __UNROLLED__
    static let steps = __STEPS__
    /// Whether fresh noise is mixed in after each step but the last.
    static let stochastic = __STOCHASTIC__
    /// Whether the transformer takes a negative prompt.
    static let guided = __GUIDED__
    static let latentCount = __LATENT_COUNT__
    static let height = __HEIGHT__
    static let width = __WIDTH__

    /// The first row that a device has the memory and the chip for names its subnet; memory in bytes, as the system counts it.
    static let devices: [DeviceClass] = [
__DEVICES__
    ]

    static let tokenizer = TokenizerSettings(
        tokens: __TOKENS__, before: __BEFORE__, after: __AFTER__, padding: __PADDING__, unknown: __UNKNOWN__,
        suffix: __SUFFIX__, composes: __COMPOSES__, lowercases: __LOWERCASES__,
        added: [
__ADDED__
        ])
}
