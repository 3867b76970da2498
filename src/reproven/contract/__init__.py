"""The questions that every method answers, asked of a method of your own::

    reproven contract --config-dir my_conf method=mine experiment=sac_bl/simulation

`my_conf/method/mine.yaml` names the class or function; the experiment is one that takes methods of its kind.
"""
