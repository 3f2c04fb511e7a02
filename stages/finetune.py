"""Stage `finetune`: tune the teacher for attribution on the task, if params.yaml asks for it."""

import json

from stages.distil.interface.command import run_stage
from stages.distil.interface.parameters import Parameters
from stages.distil.storage import tables
from stages.distil.weights.folders import ADAPTER, model_folder


def finetune(parameters: Parameters) -> None:
    """Write the folder of the low-rank matrices; without tuning it stays empty."""
    settings = parameters.saliency.finetune
    with tables.whole_folder(ADAPTER) as folder:
        if not settings.epochs:
            print("saliency.finetune.epochs is 0: the teacher is not tuned")
            return
        examples = tables.read_examples("train")
        # Importing torch takes seconds, so a missing input is reported first.
        from stages.distil.attribution.prompts import encode_prompt
        from stages.distil.attribution.tuning import CHECKPOINTS, tune
        from stages.distil.interface.catalogue import template_variables
        from stages.distil.language.chat import Chat
        from stages.distil.language.teacher_prompts import PromptFile
        from stages.distil.models.hardware import precision, use_one_gpu
        from stages.distil.models.loading import load_model
        from stages.distil.models.lora import save_adapter
        from stages.distil.models.resuming import remove_checkpoints
        from stages.distil.weights.folders import fingerprint

        use_one_gpu("tuning a teacher runs on one GPU")
        teacher = model_folder(parameters.saliency.teacher)
        dtype = precision(parameters.saliency.dtype)
        model, tokenizer = load_model(teacher, dtype, place=False)
        wording = PromptFile(parameters.rationales.prompts.answer)
        source = parameters.models[parameters.saliency.teacher]
        chat = Chat(
            parameters.saliency.teacher,
            tokenizer,
            template_variables(source),
            model.config.is_encoder_decoder,
        )
        prompts = [
            encode_prompt(chat, wording.conversation(example), example, example.answer)
            for example in examples
        ]
        weights = fingerprint(source, teacher)
        identity = json.dumps([dtype, weights], sort_keys=True)
        save_adapter(tune(model, tokenizer, prompts, settings, parameters.seed, identity), folder)
    remove_checkpoints(CHECKPOINTS)


if __name__ == "__main__":
    run_stage(finetune, __doc__)
