// Written by snapc: what this bundle holds. bundle.json has the same as JSON.
package __PACKAGE__

/** The networks, the smallest first. */
enum class Subnet(val label: String) {
__CASES__
}

internal object Constants {
    /** The folder of the models among an asset pack's assets. */
    const val ASSETS = __ASSETS__

    val textEncoder = __TEXT_ENCODER__
    val transformers: Map<Subnet, Part> = mapOf(
__TRANSFORMERS__
    )
    val vaeDecoder = __VAE_DECODER__

    /** The asset pack of the shared parts, and those of the networks. */
    val sharedPack = __SHARED_PACK__
    val packs: Map<Subnet, AssetPack> = mapOf(
__PACKS__
    )

    /** Whether one run of the transformer is all steps. */
    val unrolled = __UNROLLED__
    const val STEPS = __STEPS__

    /** Whether fresh noise is mixed in after each step but the last. */
    val stochastic = __STOCHASTIC__

    /** Whether the transformer takes a negative prompt. */
    val guided = __GUIDED__
    const val LATENT_COUNT = __LATENT_COUNT__
    const val HEIGHT = __HEIGHT__
    const val WIDTH = __WIDTH__

    /** The first row that a device has the memory and the chip for names its subnet; memory in bytes, as the system counts it. */
    val devices: List<DeviceClass> = listOf(
__DEVICES__
    )

    val tokenizer = TokenizerSettings(
        tokens = __TOKENS__, before = __BEFORE__, after = __AFTER__, padding = __PADDING__, unknown = __UNKNOWN__,
        suffix = __SUFFIX__, composes = __COMPOSES__, lowercases = __LOWERCASES__,
        added = listOf(
__ADDED__
        ),
    )
}
