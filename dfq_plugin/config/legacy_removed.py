"""What NNCF 2.x files may hold that is not done here: keys of its sample scripts, and algorithms with the way out."""

from __future__ import annotations

SCRIPT_KEYS = frozenset(
    {
        "augmentations",
        "batch_size",
        "batch_size_init",
        "batch_size_val",
        "batchnorm",
        "checkpoint_save_dir",
        "cpu_only",
        "criterion",
        "criterion_params",
        "dataset",
        "dataset_dir",
        "dataset_type",
        "disable_compression",
        "disable_tensor_float_32_execution",
        "dist_backend",
        "dist_url",
        "epochs",
        "execution_mode",
        "export_to_ir_via_onnx",
        "export_via_onnx",
        "gpu_id",
        "imshow_batch",
        "learning_rate",
        "loss_params",
        "metrics_dump",
        "model_params",
        "multiprocessing_distributed",
        "no_strip_on_export",
        "num_classes",
        "optimizer",
        "preprocessing",
        "pretrained",
        "print_freq",
        "print_step",
        "rank",
        "resuming_checkpoint_path",
        "save_freq",
        "ssd_params",
        "start_epoch",
        "test_every_n_epochs",
        "test_interval",
        "to_onnx",
        "weighing",
        "weight_decay",
        "workers",
        "world_size",
    }
)
SAMPLE_NETWORKS = frozenset(
    {"icnet", "unet", "ssd_vgg", "ssd_mobilenet", "RMNetClassifierCifar", "MaskRCNN", "RetinaNet", "YOLOv4"}
)

THEN_COME_BACK = "then give this plug-in the pruned network"
OTHER_ALGORITHMS = {
    "experimental_quantization": "write 'quantization'",
    "binarization": "there are no 1-bit integer kernels to run it; the lowest is 2 bits, quantize.weight_bits",
    "magnitude_sparsity": (
        "its successor is nncf.prune(model, mode=nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL) or _GLOBAL; prune first, "
        + THEN_COME_BACK
    ),
    "rb_sparsity": (
        "its successor is nncf.prune(model, mode=nncf.PruneMode.UNSTRUCTURED_REGULARIZATION_BASED); prune first, "
        + THEN_COME_BACK
    ),
    "const_sparsity": (
        "zeros stay zeros while nothing is trained, so delete the entry; to hold them during training, use nncf.prune, "
        + THEN_COME_BACK
    ),
    "movement_sparsity": (
        "NNCF 3.x has no structured form of it; the nearest is nncf.prune(model, "
        "mode=nncf.PruneMode.UNSTRUCTURED_REGULARIZATION_BASED); prune first, " + THEN_COME_BACK
    ),
    "filter_pruning": (
        "NNCF 3.x removes no filters; slim the network first with another tool, such as Torch-Pruning, then give it to "
        "this plug-in"
    ),
}
NO_SEARCH = (
    "architecture search (progressive shrinking) left NNCF with 3.0 and has no successor there; search with another "
    "tool, then give this plug-in the sub-network that was found"
)
NO_ACCURACY = (
    "it stops training by accuracy on labelled data, which a data-free job does not have; delete it, set "
    "finetune.epochs, and give validate.images if there are labelled images to measure on"
)
# Of NNCF before 2.0, inside an algorithm.
NO_PATTERNS = "NNCF 3.x finds by itself what is computed as one operation; delete it"
FORMER_KEYS = {"quantize_patterns": NO_PATTERNS, "quantizable_subgraph_patterns": NO_PATTERNS}
