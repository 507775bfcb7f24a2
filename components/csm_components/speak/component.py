"""The pipeline component speak: a bundle in, a spoken sentence and the speed of streaming out."""

from kfp import dsl

from csm_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def speak_component(
    version: dsl.Input[dsl.Artifact],
    bundle: dsl.Input[dsl.Model],
    text: str,
    speaker: int,
    sentences: str,
    max_frames: int,
    code_version: str,
    speech: dsl.Output[dsl.Artifact],
    work: str = "",
    run: str = "",
) -> float:
    """Serves the registered bundle from a Triton of its own and listens to it, one stream at a time.

    Args:
        version: What register wrote: the version and the gate's verdict.
        bundle: The bundle that it registered.
        text: What to say.
        speaker: Whose voice.
        sentences: More to say for the clock, a JSON list.
        max_frames: Longest turn; 0 is the model's own bound.
        code_version: Version of the package; a new one makes the step run again.
        speech: The result.
        work: Folder of the run; empty leaves the place of the result to the pipeline.
        run: Name of the pipeline run on a cluster.

    Returns:
        Seconds of work for a second of sound.
    """
    import json
    from dataclasses import asdict
    from pathlib import Path

    from csm_components.speak.step import speak
    from csm_components.steps import place, run_step

    result = run_step(
        work,
        "speak",
        speak,
        run=run,
        bundle=Path(bundle.path),
        verdict=Path(version.path),
        out=place(speech, work, "speech"),
        text=text,
        speaker=speaker,
        sentences=json.loads(sentences),
        max_frames=max_frames or None,
    )
    speech.metadata.update(asdict(result) | {"code_version": code_version})
    return result.real_time_factor
