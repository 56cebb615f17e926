// Written by snapc. Nothing here needs Android.
package __PACKAGE__

/** What keeps a picture from being drawn. */
sealed class __NAME__Exception(message: String) : Exception(message) {
    /** A file of the models is not where it should be. */
    class Missing(val path: String) : __NAME__Exception("$path is missing")

    /** An asset pack is not on the device yet: fetch it with Play's AssetPackManager. */
    class PackMissing(val pack: String) : __NAME__Exception("the asset pack $pack is not on the device")

    /** A file is not what snapc wrote, or a network takes something else than it should. */
    class Damaged(what: String) : __NAME__Exception("$what is damaged")

    /** The decoder gives numbers that are no pixels. */
    class NoImage : __NAME__Exception("the decoder gives numbers that are no pixels")
}

internal enum class PortType { FLOAT32, INT32 }

/** An input or output. */
internal class Port(val name: String, val type: PortType, val shape: List<Int>) {
    val count: Int get() = shape.fold(1) { product, side -> product * side }
}

/** A network in the folder of the models. */
internal class Part(val path: String, val signature: String, val inputs: List<Port>, val output: Port)

internal class AssetPack(val name: String, val installed: Boolean)

/** A class of devices and its network. */
internal class DeviceClass(val name: String, val memory: Long, val chips: List<String>, val subnet: Subnet) {
    fun fits(memory: Long, chip: String): Boolean = memory >= this.memory && (chips.isEmpty() || chip in chips)
}

/** The subnet for a device of so many bytes of memory and that chip. The last row fits every device. */
internal fun pick(memory: Long, chip: String): Subnet =
    (Constants.devices.firstOrNull { it.fits(memory, chip) } ?: Constants.devices.last()).subnet
